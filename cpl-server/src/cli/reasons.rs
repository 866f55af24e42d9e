//! What the stable reasons mean, for `cpl explain`.

/// One reason, with what to do about it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reason {
    /// The reason as errors, findings and holds spell it.
    pub name: &'static str,
    /// What has happened.
    pub cause: &'static str,
    /// What helps.
    pub fix: &'static str,
}

const fn reason(name: &'static str, cause: &'static str, fix: &'static str) -> Reason {
    Reason { name, cause, fix }
}

/// All of them, by name.
pub const REASONS: &[Reason] = &[
    reason(
        "ADDRESS_CONFLICT",
        "Two things on a node want the same address and port.",
        "Give one of the target groups another port, or the nodes other listen_addresses.",
    ),
    reason(
        "AGENT_SILENT",
        "The agent of the node does not answer.",
        "Look whether the process `cpl agent` runs there and reaches the server; its log says what stops it.",
    ),
    reason(
        "AGENT_SUPERSEDED",
        "A later process speaks for this node.",
        "Nothing, if the agent was restarted. If two machines use one node name, give one of them another.",
    ),
    reason(
        "AGENT_UNKNOWN",
        "The server does not know this process of the agent.",
        "The agent registers again by itself.",
    ),
    reason(
        "CACHE_BEHIND",
        "The server does not see its own newest writes yet.",
        "Try again. If it stays so, the store is slow or not reachable: look at /readyz.",
    ),
    reason(
        "CASCADE_TOO_WIDE",
        "The deletion would change more objects than one transaction holds.",
        "Take the object out of use on some of the nodes first, then delete it.",
    ),
    reason(
        "CONFIG_ON_ITS_WAY",
        "The node has not yet reported the newest configuration.",
        "Wait; `cpl rollout status` shows when it arrives.",
    ),
    reason(
        "CONFIG_UNREADABLE",
        "The agent does not understand an object that it was given.",
        "Update the agent: it is probably older than the server.",
    ),
    reason(
        "CORRUPT_VALUE",
        "A stored value cannot be read.",
        "Restore it from a backup; do not write to the store by hand.",
    ),
    reason(
        "DEADLINE_PASSED",
        "The change could not be made in time; nothing happened.",
        "Try again.",
    ),
    reason(
        "ETAG_MISMATCH",
        "The object is no longer the one that was named: somebody changed it in between.",
        "Read it again, look at what changed (`cpl history`), then decide again.",
    ),
    reason(
        "FIELD_CONFLICT",
        "Two fields exclude each other.",
        "Remove one of them.",
    ),
    reason(
        "FIELD_DUPLICATE",
        "Something that must be unique occurs twice.",
        "Remove or rename one of the two.",
    ),
    reason(
        "FIELD_INVALID",
        "A field has a value of the wrong form.",
        "The line of the field says what is expected.",
    ),
    reason(
        "FIELD_OUT_OF_RANGE",
        "A number, time or count is too small or too large.",
        "The line of the field says what is allowed.",
    ),
    reason(
        "FIELD_REQUIRED",
        "A field is missing that has no default.",
        "Add it.",
    ),
    reason(
        "FIELD_TOO_LONG",
        "A text or list is too long.",
        "Shorten it.",
    ),
    reason(
        "FIELD_TYPE",
        "A field has a value of the wrong type, for example a string for a number.",
        "The line of the field says what is expected. In YAML, quotes make a string.",
    ),
    reason(
        "FIELD_UNKNOWN",
        "The object has no field of this name.",
        "Look for a misspelling, or for a field at the wrong depth.",
    ),
    reason(
        "FOLD_CONTESTED",
        "Another replica wrote the status first.",
        "Nothing: it is done again by itself.",
    ),
    reason(
        "IDEMPOTENCY_KEY_REUSED",
        "The key of this write belongs to another write.",
        "Use a fresh key for each write.",
    ),
    reason(
        "KIND_UNKNOWN",
        "There is no kind of this name.",
        "Kinds are TargetGroup and Node, spelled so.",
    ),
    reason(
        "LABELS_INVALID",
        "A label has a key or value that cannot be one.",
        "The line of the field says what is expected.",
    ),
    reason(
        "LIMIT_EXCEEDED",
        "The request is larger than the store takes.",
        "Split it.",
    ),
    reason(
        "NAME_INVALID",
        "A name has characters that names cannot have.",
        "Use 1 to 63 lower-case letters, digits or '-', with a letter or digit at both ends.",
    ),
    reason(
        "NOT_FOUND",
        "There is no object of this name.",
        "`cpl get` lists what there is.",
    ),
    reason(
        "OBJECT_DUPLICATE",
        "An object occurs twice in one request.",
        "Put it into one manifest only.",
    ),
    reason(
        "OBJECT_HELD",
        "The node refuses the newest generation of an object and runs the last good one.",
        "`cpl why NODE` names the field. Correct it and apply, or take the cause away on the node and `cpl node retry`.",
    ),
    reason(
        "OBJECT_IN_USE",
        "Another object refers to the one that is to be deleted.",
        "Change those that refer to it first, or delete with --cascade, which takes it out of use.",
    ),
    reason(
        "OUTCOME_UNKNOWN",
        "The write may or may not have happened: the store did not say.",
        "Look at the object (`cpl history`) before repeating anything.",
    ),
    reason(
        "PORT_CONFLICT",
        "Two target groups of one node want the same port.",
        "Give one of them another port, or assign them to different nodes.",
    ),
    reason(
        "PORT_INVALID",
        "A port is not between 1 and 65535.",
        "Correct it.",
    ),
    reason(
        "PRESENCE_CONTESTED",
        "Another replica heard this agent later.",
        "Nothing: the agent calls again by itself.",
    ),
    reason(
        "QUEUE_FULL",
        "Too many changes are waiting.",
        "Wait a moment, then try again.",
    ),
    reason(
        "REFERENCE_UNKNOWN",
        "An object refers to another one that does not exist.",
        "Create that one first, or apply both together.",
    ),
    reason(
        "REGISTRATION_CONTESTED",
        "Several processes register for one node at once.",
        "See that only one agent uses this node name.",
    ),
    reason(
        "REPORTS_BACKLOG",
        "Too many reports of agents are waiting to be stored.",
        "Nothing: agents report again by themselves. If it stays so, the store is too slow.",
    ),
    reason(
        "REQUEST_INVALID",
        "The store refuses the form of the request.",
        "This is a bug in CPL; report it with the request id.",
    ),
    reason(
        "REVISION_AHEAD",
        "The place in history that was named does not exist yet.",
        "Start from a fresh list: the store was probably restored from a backup.",
    ),
    reason(
        "REVISION_COMPACTED",
        "The place in history that was named is forgotten.",
        "Start from a fresh list.",
    ),
    reason(
        "SEQUENCE_STALE",
        "A later call of the same agent has arrived already.",
        "Nothing: the late one does not matter.",
    ),
    reason(
        "SESSION_LOST",
        "This replica no longer owns what it wanted to write.",
        "Try again; another replica, or this one, takes over in a moment.",
    ),
    reason(
        "STORE_CHANGED",
        "The store is not the one that was read before: it was restored or replaced.",
        "Start from a fresh list.",
    ),
    reason(
        "STORE_CORRUPT",
        "The store is damaged.",
        "Stop the server, keep the files, restore the last backup.",
    ),
    reason(
        "STORE_REJECTED",
        "The store refuses the request.",
        "This is a bug in CPL or a wrong right in the store; the server's log has the cause.",
    ),
    reason(
        "STORE_SHARED",
        "The store is used by several replicas, which this version does not support.",
        "Run one server.",
    ),
    reason(
        "STORE_UNAVAILABLE",
        "The store does not answer; nothing happened.",
        "Try again. If it stays so, look at the store and at the server's log.",
    ),
    reason(
        "TAKEOVER_CONTESTED",
        "Other replicas keep taking over.",
        "See that one server only uses the store.",
    ),
    reason(
        "TOKEN_EXISTS",
        "There is a token of this id already.",
        "Draw another one.",
    ),
    reason(
        "TOKEN_EXPIRED",
        "The token has ended.",
        "Get another one: `cpl token create`, for a node `cpl node join`.",
    ),
    reason(
        "TOKEN_MALFORMED",
        "What was sent is no token.",
        "Look at the token file: it must hold cpl_<id>_<secret> and nothing else.",
    ),
    reason(
        "TOKEN_UNKNOWN",
        "The server does not know the token: it was revoked, or is another server's.",
        "Look with `cpl context show` which server and which token are used.",
    ),
    reason(
        "TXN_CONFLICT",
        "Somebody else changed the same state at the same moment.",
        "Try again.",
    ),
    reason(
        "VERSION_AHEAD",
        "The agent has a newer version than the control plane: the store was restored from an old backup.",
        "The agent begins anew by itself once the store's incarnation is raised, which restoring through `cpl store import` does.",
    ),
    reason(
        "WEIGHT_INVALID",
        "A weight is not between 0 and 256.",
        "Correct it.",
    ),
];

/// The reason of this name, in any case.
pub fn find(name: &str) -> Option<&'static Reason> {
    REASONS
        .iter()
        .find(|reason| reason.name.eq_ignore_ascii_case(name))
}

/// Up to three reasons that are spelled almost like this one.
pub fn near(name: &str) -> Vec<&'static str> {
    let name = name.to_ascii_uppercase();
    let mut near: Vec<_> = REASONS
        .iter()
        .map(|reason| (similarity(&name, reason.name), reason.name))
        .filter(|(similarity, _)| *similarity > 60)
        .collect();
    near.sort_by(|a, b| b.cmp(a));
    near.into_iter().take(3).map(|(_, name)| name).collect()
}

/// From 0 to 100.
fn similarity(a: &str, b: &str) -> u32 {
    let diff = similar::TextDiff::from_chars(a, b);
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a ratio lies between 0 and 1"
    )]
    let percent = (diff.ratio() * 100.0) as u32;
    percent
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reasons_are_in_order_and_unique() {
        assert!(REASONS.windows(2).all(|pair| pair[0].name < pair[1].name));
    }

    #[test]
    fn a_misspelt_reason_is_guessed() {
        assert_eq!(find("etag_mismatch").map(|r| r.name), Some("ETAG_MISMATCH"));
        assert_eq!(near("ETAG_MISSMATCH").first(), Some(&"ETAG_MISMATCH"));
        assert!(near("XYZ").is_empty());
    }
}
