//! The ways of breaking the contract.

macro_rules! defects {
    ($($(#[$doc:meta])* $name:ident,)*) => {
        /// One way of breaking the contract.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
        pub enum Defect {
            $($(#[$doc])* $name,)*
        }

        impl Defect {
            /// All of them.
            pub const ALL: &'static [Self] = &[$(Self::$name,)*];
        }
    };
}

defects! {
    /// Writes without looking at the compares.
    IgnoresCompares,
    /// Looks at the compares, then writes, and others write in between.
    ComparesBeforeItWrites,
    /// Deletes whatever is there, as long as nothing is put beside.
    DeletesWithoutComparing,
    /// Commits the writes of a transaction one by one.
    SplitsATransaction,
    /// Takes the last of several writes to a key.
    AcceptsAKeyTwice,
    /// Keeps a deleted key with an empty value.
    KeepsDeletedKeys,
    /// Does not write a value that is there already.
    SkipsEqualValues,
    /// Makes a revision of a transaction that changes nothing.
    NothingIsARevision,
    /// Says of every limit only that the request is invalid.
    DoesNotNameLimits,
    /// Refuses keys that are nearly as long as keys may be.
    RefusesLongKeys,
    /// Says that a compare was false, not which.
    KeepsFalseComparesToItself,
    /// Takes any failure for a false compare, also one that leaves the outcome unknown.
    TakesFailureForFalseCompare,
    /// Answers a commit without committing when a caller has just given up.
    LosesWhatFollowsADrop,
    /// Serves every other read of a key from memory.
    ServesAStaleRead,
    /// Takes an empty value for absence.
    TakesEmptyForAbsent,
    /// Tells a head that is one revision behind.
    TellsAnOldHead,
    /// Forgets the ids of transactions.
    ForgetsIds,
    /// Takes another transaction with a known id for the first one.
    ForgetsBodies,
    /// Asks whether a transaction was applied without ruling it out, and hopes not.
    OnlyLooksAtOutcomes,
    /// Ends every list with its first page.
    EndsAfterOnePage,
    /// Announces a page after the last one.
    AnnouncesAPhantom,
    /// Reads every page at the newest revision.
    PinsEveryPageAnew,
    /// Says of a page that it is as new as the store is by now.
    TellsAPageTooNew,
    /// Takes the token of a list for any other.
    TakesAnyToken,
    /// Takes the token of a future revision for one of now.
    TakesATokenOfTheFuture,
    /// Lists the last key first.
    ListsBackwards,
    /// Takes the end of a range to be inside.
    IncludesTheEnd,
    /// Fills pages up to their limit, however large the values are.
    IgnoresPageBytes,
    /// Makes pages as large as pages may be.
    IgnoresThePageLimit,
    /// Refuses ranges that nothing can be in.
    RefusesEmptyRanges,
    /// Refuses to go on with a list at the compacted revision itself.
    RefusesTheCompactedRevision,
    /// Delivers progress instead of the second item.
    DropsAnEvent,
    /// Delivers the second item again.
    DuplicatesAnEvent,
    /// Delivers the second item after the third.
    SwapsTwoRevisions,
    /// Delivers every item when the next one is there.
    HoldsTheLastItemBack,
    /// Delivers the events of a revision one by one.
    SplitsARevision,
    /// Delivers large revisions in parts.
    SplitsLargeRevisions,
    /// Delivers two revisions as one.
    MergesRevisions,
    /// Says that everything up to an item was delivered, then delivers it.
    TellsProgressEarly,
    /// Never tells progress.
    TellsNoProgress,
    /// Starts one revision too late.
    SkipsAtTheBoundary,
    /// Delivers events of other keys, too.
    WatchesEverything,
    /// Delivers the events of a revision in the wrong order.
    OrdersEventsBackwards,
    /// Does not tell what an event replaced.
    ForgetsWhatWasBefore,
    /// Loses what a slow watcher has not fetched yet, beyond a hundred items.
    LosesTheBacklog,
    /// Goes on after compaction as if nothing had been forgotten.
    SkipsWhatWasCompacted,
    /// Waits for a future revision instead of refusing it.
    WaitsForTheFuture,
    /// Takes the cursor of another store for its own.
    TakesAForeignCursor,
    /// Does not notice when a watch is dropped, and has room for a thousand.
    LeaksWatches,
    /// Compacts nothing.
    NeverCompacts,
    /// Compacts a future revision without a word.
    CompactsTheFuture,
    /// Forgets live values that compaction has passed.
    CompactsLiveValues,
    /// Says that it is sealed, and goes on.
    IgnoresTheSeal,
    /// Says that it is sealed a little before it is.
    SealsLate,
    /// Lets everybody seal what somebody has sealed.
    TakesAnySeal,
    /// Stays sealed.
    StaysSealed,
}

impl Defect {
    /// Whether only a failing store shows it: put it over a [`FaultyStore`](crate::store::FaultyStore)
    /// and under a [`Settling`](super::super::Settling).
    pub const fn needs_faults(self) -> bool {
        matches!(self, Self::TakesFailureForFalseCompare)
    }
}
