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
        "ADDRESS_FORBIDDEN",
        "The agent may not listen on the address and port.",
        "Give it the right to (ports below 1024 need CAP_NET_BIND_SERVICE), or use another port.",
    ),
    reason(
        "ADDRESS_IN_USE",
        "Another process on the node listens on the address and port.",
        "Stop it or move it, then `cpl node retry`; or give the target group another port.",
    ),
    reason(
        "ADDRESS_NOT_AVAILABLE",
        "The node does not have the address.",
        "Give the machine the address, or correct the node's listen_addresses.",
    ),
    reason(
        "ADDRESS_REFUSED",
        "The operating system does not let the agent listen on the address and port.",
        "The message says why.",
    ),
    reason(
        "AGENT_NEVER_SEEN",
        "No agent has ever registered for the node.",
        "`cpl node join NODE` makes a token; start `cpl agent` on the node with it.",
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
        "BODY_INVALID",
        "The body of the request has the wrong form.",
        "The message says what is expected; update `cpl` if it is older than the server.",
    ),
    reason(
        "BODY_NOT_JSON",
        "The body of the request is not JSON.",
        "Send JSON.",
    ),
    reason(
        "BODY_NOT_UTF8",
        "The body of the request is not UTF-8.",
        "Send UTF-8.",
    ),
    reason(
        "BODY_TOO_DEEP",
        "The body of the request is nested too deeply.",
        "Flatten it.",
    ),
    reason(
        "BODY_TOO_LARGE",
        "The body of the request is too large.",
        "Split it: apply fewer manifests at once.",
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
        "CONFIG_INVALID",
        "The data plane refuses its configuration.",
        "The message is the data plane's own; correct the object that it names.",
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
        "DATA_PLANE_DOWN",
        "The data plane of the node does not run.",
        "Look at the agent's log on the node.",
    ),
    reason(
        "DEADLINE_PASSED",
        "The change could not be made in time; nothing happened.",
        "Try again.",
    ),
    reason(
        "DIGEST_MISMATCH",
        "What the agent received is not what the server says that it sent.",
        "The agent asks again by itself. If it stays so, something on the way changes bodies.",
    ),
    reason(
        "ETAG_AMBIGUOUS",
        "An etag was sent with a request for several objects.",
        "Name one object, or leave the etag out.",
    ),
    reason(
        "ETAG_MALFORMED",
        "The header If-Match has the wrong form.",
        "Send If-Match: \"ETAG\".",
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
        "FIELD_UNREADABLE",
        "A part of an object in the store is no JSON: somebody has changed it past CPL.",
        "`cpl revert` puts back what was there before.",
    ),
    reason(
        "FOLD_CONTESTED",
        "Another replica wrote the status first.",
        "Nothing: it is done again by itself.",
    ),
    reason(
        "GENERATION_UNKNOWN",
        "The object has no such generation, or it is no longer kept.",
        "`cpl history` lists those that there are.",
    ),
    reason(
        "IDEMPOTENCY_KEY_INVALID",
        "The idempotency key is too long or has characters that it cannot have.",
        "Use a short key of letters and digits.",
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
        "MEDIA_TYPE",
        "The body of the request has another type than JSON.",
        "Send Content-Type: application/json.",
    ),
    reason(
        "METHOD_NOT_ALLOWED",
        "The path does not take this method.",
        "Look at the reference of the API.",
    ),
    reason(
        "NAME_INVALID",
        "A name has characters that names cannot have.",
        "Use 1 to 63 lower-case letters, digits or '-', with a letter or digit at both ends.",
    ),
    reason(
        "NODE_DRAINED",
        "The node is drained: it takes no new connections.",
        "`cpl node undrain` lets it serve again.",
    ),
    reason(
        "NOT_FOUND",
        "There is no object of this name.",
        "`cpl get` lists what there is.",
    ),
    reason(
        "NO_DATA_PLANE",
        "The node's driver only writes files: no traffic flows through it.",
        "Install HAProxy and start the agent with --driver haproxy.",
    ),
    reason(
        "OBJECT_DUPLICATE",
        "An object occurs twice in one request.",
        "Put it into one manifest only.",
    ),
    reason(
        "OBJECT_FOREIGN",
        "Somebody has changed the object in the store, past CPL. What was there before still runs.",
        "`cpl describe` shows the change; `cpl adopt` makes it the newest version, `cpl revert` removes it.",
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
        "OBJECT_NOT_FOREIGN",
        "Nobody has changed the object past CPL, so there is nothing to adopt or to revert.",
        "To go back to an older generation use `cpl rollback`.",
    ),
    reason(
        "OUTCOME_UNKNOWN",
        "The write may or may not have happened: the store did not say.",
        "Look at the object (`cpl history`) before repeating anything.",
    ),
    reason(
        "PAGE_TOKEN_INVALID",
        "The page token is not one of this server.",
        "Start from the first page.",
    ),
    reason(
        "PART_UNKNOWN",
        "A stored generation has a part that this server does not know.",
        "Update the server.",
    ),
    reason(
        "PATH_UNKNOWN",
        "The server has nothing at this path.",
        "Look at the address of the server, and update it if it is older than `cpl`.",
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
        "PROTOCOL_UNSUPPORTED",
        "The agent and the server have no protocol in common.",
        "Update the older one.",
    ),
    reason(
        "QUERY_INVALID",
        "The query of the request is not well formed.",
        "Percent-encode it.",
    ),
    reason(
        "QUERY_TOO_LONG",
        "The query of the request is too long.",
        "Use fewer labels.",
    ),
    reason(
        "QUERY_UNKNOWN",
        "The server does not know a query parameter.",
        "Look for a misspelling; update the server if it is older than `cpl`.",
    ),
    reason(
        "QUEUE_FULL",
        "Too many changes are waiting.",
        "Wait a moment, then try again.",
    ),
    reason(
        "RATE_LIMITED",
        "Too many requests.",
        "Wait as long as the error says.",
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
        "SCOPE_TOO_SMALL",
        "The token does not allow this.",
        "Use a token with a larger scope, see `cpl token create --scope`.",
    ),
    reason(
        "SEQUENCE_STALE",
        "A later call of the same agent has arrived already.",
        "Nothing: the late one does not matter.",
    ),
    reason(
        "SESSION_LOST",
        "This replica no longer owns what it took: its session was not renewed in time, or another one took over.",
        "Try again; another replica leads in a moment. A server that ends with this stands by once it is started again.",
    ),
    reason(
        "STATE_NOT_WRITABLE",
        "The agent cannot write its state folder.",
        "Free space, or mend the folder's rights; the agent goes on by itself.",
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
        "STORE_READ_ONLY",
        "The store takes no writes: its disk is full or failed; nothing happened.",
        "Make room on the server's disk: it notices within 30 s. If the disk failed, see the server's log.",
    ),
    reason(
        "STORE_REJECTED",
        "The store refuses the request.",
        "This is a bug in CPL or a wrong right in the store; the server's log has the cause.",
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
        "TOKEN_MISSING",
        "The request had no token.",
        "Name a token file with --token-file or CPL_TOKEN_FILE, or keep one in a context: `cpl context set`.",
    ),
    reason(
        "TOKEN_UNKNOWN",
        "The server does not know the token: it was revoked, or is another server's.",
        "Look with `cpl context show` which server and which token are used.",
    ),
    reason(
        "TOO_MANY_REJECTIONS",
        "The data plane kept refusing something, whatever was left out.",
        "Look at the agent's log on the node.",
    ),
    reason(
        "TXN_CONFLICT",
        "Somebody else changed the same state at the same moment.",
        "Try again.",
    ),
    reason(
        "VERB_UNKNOWN",
        "The object does not have this verb.",
        "Look at the reference of the API.",
    ),
    reason(
        "VERSION_AHEAD",
        "The agent has a newer version than the control plane, in the same life of the store.",
        "The store was replaced by an old copy: restore it with `cpl store import` instead, so that agents begin anew.",
    ),
    reason(
        "VERSION_WENT_BACK",
        "The server gave the agent an older version than it has, in the same life of the store.",
        "The store was replaced by an old copy: restore it with `cpl store import` instead.",
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
        .filter(|(similarity, _)| *similarity > 75)
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
