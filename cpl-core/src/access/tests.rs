use super::*;

const TOKEN_TEXT: &str =
    "cpl_0123456789abcdef_0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";

#[test]
fn only_whole_tokens_have_an_id() {
    assert_eq!(parse(TOKEN_TEXT), Some("0123456789abcdef"));
    for bad in [
        "",
        "cpl_",
        "cpl__",
        &TOKEN_TEXT[..84],
        &TOKEN_TEXT.to_uppercase(),
        "x/y",
    ] {
        assert_eq!(parse(bad), None, "{bad}");
    }
}

#[test]
fn an_agent_speaks_for_its_own_node_and_can_do_nothing_else() {
    let agent = Scope::Agent {
        node: "a".to_owned(),
    };
    assert!(allows(&agent, Need::Speak("a")) && allows(&agent, Need::Register("a")));
    assert!(!allows(&agent, Need::Speak("b")));
    for need in [Need::Read, Need::Write, Need::Admin] {
        assert!(!allows(&agent, need), "{need:?}");
    }
}

#[test]
fn a_join_token_registers_and_cannot_speak() {
    let join = Scope::Join {
        node: "a".to_owned(),
    };
    assert!(allows(&join, Need::Register("a")));
    assert!(!allows(&join, Need::Register("b")) && !allows(&join, Need::Speak("a")));
}

#[test]
fn people_do_not_speak_for_nodes() {
    for scope in [Scope::Admin, Scope::Write, Scope::Read] {
        assert!(!allows(&scope, Need::Speak("a")), "{scope:?}");
    }
    assert!(!allows(&Scope::Read, Need::Write) && !allows(&Scope::Write, Need::Admin));
}
