//! The counters that never go back.

use std::fmt::{Display, Formatter};

use serde::{Deserialize, Serialize};

macro_rules! counter {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(
            Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize,
            Deserialize,
        )]
        #[serde(transparent)]
        pub struct $name(pub u64);

        impl $name {
            /// The one after this.
            #[must_use]
            pub const fn next(self) -> Self {
                Self(self.0 + 1)
            }
        }

        impl Display for $name {
            fn fmt(&self, f: &mut Formatter<'_>) -> std::fmt::Result {
                Display::fmt(&self.0, f)
            }
        }
    };
}

counter!(
    /// Number of a change of specs (`global_version`): dense, in commit order. Zero is before the first.
    ConfigVersion
);
counter!(
    /// Number of changes of one object's spec.
    Generation
);
counter!(
    /// Number of an ownership; every write of an owner carries it.
    Epoch
);
counter!(
    /// Which process of an agent this is; a later one is greater.
    AgentIncarnation
);

counter!(
    /// The store's number of a committed transaction; orders everything. Zero is before the first.
    Revision
);
