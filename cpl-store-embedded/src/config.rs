//! What an embedder may choose.

/// How much the store keeps, and how much it takes on at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Config {
    /// Revisions that stay readable and watchable; older ones are compacted by themselves.
    pub log_revisions: u64,
    /// Bytes of history that stay; reaching this compacts even fewer revisions than `log_revisions`,
    /// since the history is also held in memory.
    pub log_bytes: u64,
    /// Bytes of compacted log that the file holds before a checkpoint writes what became of it to the
    /// key table. The more, the more often a key is written once for several changes, and the longer
    /// an opening replays (about half a second for 64 MiB).
    pub checkpoint_bytes: u64,
    /// Rows that one step of a checkpoint writes for a lone caller, who may have to wait for one step;
    /// under load it writes up to eight times as many.
    pub checkpoint_rows: usize,
    /// Requests that may wait for the writer; more are refused as overloaded.
    pub queue: usize,
    /// Transaction ids that may be remembered at once, which bounds their memory (about 150 bytes
    /// each). A transaction with an id above it is refused as overloaded: forgetting an id before
    /// its time would let a late original apply twice.
    pub outcome_records: usize,
    /// What drives the writes.
    pub writer: Writer,
}

/// What drives the writes of a store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Writer {
    /// A thread of the store's own, which commits together whatever queued during the commit before.
    Thread,
    /// The caller's own thread, one request at a time: for the simulator and for tools. It blocks the
    /// executor while the disk works.
    Inline,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            log_revisions: 10_000,
            log_bytes: 64 << 20,
            checkpoint_bytes: 32 << 20,
            checkpoint_rows: 1_000,
            queue: 1_024,
            outcome_records: 2_000_000,
            writer: Writer::Thread,
        }
    }
}
