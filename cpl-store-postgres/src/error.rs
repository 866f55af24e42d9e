//! What PostgreSQL's errors say about a write.

use cpl_core::store::{Error, Kind};

/// What the schema itself says to a write to a sealed store.
const SEALED: &str = "CPL01";

/// Whether the request may have reached the server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Sent {
    No,
    Perhaps,
}

/// The kind of an error. Only codes that PostgreSQL gives before anything is committed say that nothing happened
/// (appendix A of its manual); what is not listed is unknown.
pub(crate) fn translate(context: &'static str, sent: Sent, error: sqlx::Error) -> Error {
    if error
        .as_database_error()
        .is_some_and(|error| error.code().as_deref() == Some(SEALED))
    {
        return Error::sealed().with_source(error);
    }
    let kind = match &error {
        sqlx::Error::Database(database) => of_code(database.code().as_deref(), sent),
        sqlx::Error::Io(_) | sqlx::Error::Tls(_) | sqlx::Error::Protocol(_) => match sent {
            Sent::No => Kind::NotConnected,
            Sent::Perhaps => Kind::ConnectionLost,
        },
        sqlx::Error::Configuration(_) => Kind::Invalid,
        _ => Kind::Corrupt,
    };
    Error::new(kind, context).with_source(error)
}

fn of_code(code: Option<&str>, sent: Sent) -> Kind {
    match code.unwrap_or_default() {
        // Serialization failure, deadlock, lock or statement timed out, out of memory, too many connections.
        "40001" | "40P01" | "55P03" | "57014" | "53200" | "53300" => Kind::Overloaded,
        // A standby; a full disk.
        "25006" | "53100" => Kind::ReadOnly,
        // The server starts or stops and accepted nobody.
        "57P03" => Kind::NotConnected,
        // Who this is, what it may do, and a database that is not there.
        "28000" | "28P01" | "42501" | "3D000" => Kind::Unauthorized,
        "XX001" | "XX002" => Kind::Corrupt,
        // Nothing but the schema is made before a request is sent.
        code if sent == Sent::No && (code.starts_with("42") || code.starts_with("0A")) => {
            Kind::Invalid
        },
        // Ended by the server, perhaps after the commit.
        "57P01" | "57P02" | "57P05" => match sent {
            Sent::No => Kind::NotConnected,
            Sent::Perhaps => Kind::ConnectionLost,
        },
        _ => match sent {
            Sent::No => Kind::NotConnected,
            Sent::Perhaps => Kind::CommitUnknown,
        },
    }
}

#[cfg(test)]
mod tests {
    use cpl_core::store::Class;

    use super::*;

    #[test]
    fn what_is_not_known_to_have_failed_is_unknown() {
        for code in [
            "40001", "40P01", "55P03", "57014", "53300", "25006", "53100", "57P03",
        ] {
            assert_eq!(
                of_code(Some(code), Sent::Perhaps).class(),
                Class::NotApplied,
                "{code}"
            );
        }
        for code in [
            "57P01", "57P02", "08006", "40003", "58030", "23505", "ZZZZZ", "",
        ] {
            assert_eq!(
                of_code(Some(code), Sent::Perhaps).class(),
                Class::Indeterminate,
                "{code}"
            );
            assert_eq!(
                of_code(Some(code), Sent::No).class(),
                Class::NotApplied,
                "{code}"
            );
        }
        for code in ["28P01", "42601"] {
            assert_eq!(
                of_code(Some(code), Sent::No).class(),
                Class::Rejected,
                "{code}"
            );
        }
    }
}
