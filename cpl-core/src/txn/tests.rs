use super::*;
use crate::store::Range;

const STATUS: KeyKind<Held> = KeyKind::new("/cpl/v1/nodes/{name}/status");

#[test]
fn keys_read_as_in_the_documents() {
    assert_eq!(
        STATUS.key(&["node-1"]).key().as_str(),
        Some("/cpl/v1/nodes/node-1/status")
    );
    assert_eq!(
        STATUS.parts(STATUS.key(&["node-1"]).key()),
        Some(vec!["node-1"])
    );
    assert_eq!(AUDIT.parts(STATUS.key(&["node-1"]).key()), None);
}

#[test]
fn a_part_cannot_reach_into_another_segment() {
    let key = STATUS.key(&["a/b/../c"]);
    assert_eq!(
        key.key().as_str(),
        Some("/cpl/v1/nodes/a%2Fb%2F..%2Fc/status")
    );
}

#[test]
fn a_range_ends_where_the_first_open_segment_begins() {
    let expected = Range::prefix("/cpl/v1/nodes/").unwrap();
    assert_eq!(STATUS.range(&[]), expected);
}

#[test]
fn overlapping_rows_are_found() {
    let clash: KeyKind<Claim> = KeyKind::new("/cpl/v1/{collection}/x/status");
    let rows = [STATUS.row(), AUDIT.row(), clash.row()];
    let (a, b) = overlaps(&rows).unwrap();
    assert_eq!((a, b), (&rows[0], &rows[2]));
    assert_eq!(overlaps(&rows[..2]), None);
}

#[test]
fn actors_do_not_share_idempotency_keys() {
    assert_ne!(
        idempotency_key("a", "bc").key(),
        idempotency_key("ab", "c").key()
    );
}
