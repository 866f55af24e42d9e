//! The cells of the table, and why some of them stay dark.

use crate::store::Class;

/// What was asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Call {
    /// The head.
    Head,
    /// One key.
    Get,
    /// The first page of a list.
    FirstPage,
    /// A later page.
    NextPage,
    /// A transaction without an id.
    Commit,
    /// A transaction with an id.
    CommitWithId,
    /// The outcome of an id.
    Outcome,
    /// The start of a watch.
    Watch,
    /// An item of a watch.
    WatchItem,
    /// A compaction.
    Compact,
    /// The end of all writing.
    Seal,
    /// Its end.
    Unseal,
}

/// What was answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Answer {
    /// It was done, and there is nothing more to say of it.
    Done,
    /// The key is there.
    Found,
    /// The key is not there.
    Absent,
    /// A page, and another one follows.
    More,
    /// The last page.
    Last,
    /// The transaction is applied.
    Applied,
    /// It had been applied before.
    Replayed,
    /// A compare was false.
    CompareFailed,
    /// The transaction is ruled out.
    Void,
    /// The events of a revision.
    Events,
    /// A progress mark.
    Progress,
    /// Silence of the backend.
    Stalled,
    /// The watch ended: compaction was faster.
    EndCompacted,
    /// The watch ended: resume it.
    EndOverflow,
    /// The watch ended for another reason.
    EndOther,
    /// An error of this class.
    Failed(Class),
}

/// What the store had been through.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum State {
    /// Nothing was written.
    Empty,
    /// Something was written, or may have been.
    Written,
    /// Something was compacted, or may have been.
    Compacted,
    /// Of some transaction nobody knows yet what became of it, besides any of the others.
    Unsettled,
}

/// One combination.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Cell {
    /// What was asked.
    pub call: Call,
    /// What was answered.
    pub answer: Answer,
    /// In which state.
    pub state: State,
}

const CALLS: [Call; 12] = [
    Call::Head,
    Call::Get,
    Call::FirstPage,
    Call::NextPage,
    Call::Commit,
    Call::CommitWithId,
    Call::Outcome,
    Call::Watch,
    Call::WatchItem,
    Call::Compact,
    Call::Seal,
    Call::Unseal,
];

const FAILURES: [Answer; 4] = [
    Answer::Failed(Class::Rejected),
    Answer::Failed(Class::NotApplied),
    Answer::Failed(Class::Indeterminate),
    Answer::Failed(Class::Corrupt),
];

impl State {
    /// All of them, in the order of the table's columns.
    pub(super) const ALL: [Self; 4] =
        [Self::Empty, Self::Written, Self::Compacted, Self::Unsettled];
}

impl Call {
    /// Every answer that the types allow.
    fn answers(self) -> Vec<Answer> {
        let good: &[Answer] = match self {
            Self::Head | Self::Watch | Self::Compact | Self::Seal | Self::Unseal => &[Answer::Done],
            Self::Get => &[Answer::Found, Answer::Absent],
            Self::FirstPage | Self::NextPage => &[Answer::More, Answer::Last],
            Self::Commit => &[Answer::Applied, Answer::CompareFailed],
            Self::CommitWithId => &[Answer::Applied, Answer::Replayed, Answer::CompareFailed],
            Self::Outcome => &[Answer::Applied, Answer::Void],
            Self::WatchItem => {
                return vec![
                    Answer::Events,
                    Answer::Progress,
                    Answer::Stalled,
                    Answer::EndCompacted,
                    Answer::EndOverflow,
                    Answer::EndOther,
                ];
            },
        };
        [good, &FAILURES].concat()
    }
}

/// Every row of the table.
pub(super) fn rows() -> impl Iterator<Item = (Call, Answer)> {
    CALLS
        .into_iter()
        .flat_map(|call| call.answers().into_iter().map(move |answer| (call, answer)))
}

/// Why no case can or should reach a cell; nothing where one should.
pub(super) fn excuse(cell: Cell) -> Option<&'static str> {
    use Answer::{
        Applied, EndCompacted, EndOther, EndOverflow, Events, Failed, Found, More, Progress,
        Replayed, Stalled,
    };
    let Cell {
        call,
        answer,
        state,
    } = cell;
    let excuse = match (call, answer, state) {
        (_, Failed(Class::Corrupt), _) => {
            "needs a hand inside the backend, whose own tests damage what it stored"
        },
        (_, Stalled | EndOther, _) => "needs an outage or the end of the backend",
        (Call::Head | Call::Get | Call::FirstPage | Call::Outcome, Failed(Class::Rejected), _) => {
            "the types leave nothing to refuse"
        },
        (Call::Get, Found, State::Empty) | (_, More, State::Empty) => "nothing is stored",
        (Call::CommitWithId, Replayed, State::Empty) | (Call::Outcome, Applied, State::Empty) => {
            "nothing was applied"
        },
        (_, Events | Progress | EndOverflow, State::Empty) => "nothing happened to tell",
        (_, EndCompacted, State::Empty | State::Written) => "nothing is compacted",
        (Call::Unseal, Failed(Class::Rejected), _) => "there is nothing to refuse",
        (Call::Seal | Call::Unseal, _, State::Empty) => "there is nothing to move",
        (Call::Unseal, _, State::Unsettled) => "nobody writes to a sealed store",
        (Call::Seal, Failed(Class::Rejected), State::Unsettled) => {
            "whose seal it is has nothing to do with what is on its way"
        },
        (Call::Commit, Failed(Class::NotApplied), State::Empty) => {
            "without faults only a seal refuses a write, and there is nothing to move"
        },
        (Call::Commit, Failed(Class::Indeterminate), _) | (Call::Commit, _, State::Unsettled) => {
            "behind faults every transaction has an id, without which nothing could be settled"
        },
        _ => return None,
    };
    Some(excuse)
}
