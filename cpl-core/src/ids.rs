//! Identifiers, and where fresh ones come from.

use std::fmt::{Debug, Display, Formatter};
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Where randomness comes from: the operating system in production, a seed in the simulator.
pub trait IdGen: Send + Sync + Debug {
    /// 128 fresh, unpredictable bits.
    fn fresh(&self) -> u128;

    /// A number in `0..bound`, for jitter; zero when `bound` is zero.
    fn below(&self, bound: u64) -> u64 {
        if bound == 0 {
            return 0;
        }
        // 128 bits modulo a 64-bit bound: the bias is below 2^-64.
        u64::try_from(self.fresh() % u128::from(bound)).unwrap_or(0)
    }
}

/// The text was not 32 hexadecimal digits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("expected 32 hexadecimal digits")]
pub struct BadId;

macro_rules! id128 {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(pub u128);

        impl $name {
            /// A fresh one.
            pub fn fresh(ids: &dyn IdGen) -> Self {
                Self(ids.fresh())
            }
        }

        impl Display for $name {
            fn fmt(&self, f: &mut Formatter<'_>) -> std::fmt::Result {
                write!(f, "{:032x}", self.0)
            }
        }

        impl Debug for $name {
            fn fmt(&self, f: &mut Formatter<'_>) -> std::fmt::Result {
                write!(f, concat!(stringify!($name), "({:032x})"), self.0)
            }
        }

        impl FromStr for $name {
            type Err = BadId;

            fn from_str(text: &str) -> Result<Self, BadId> {
                if text.len() != 32 || !text.bytes().all(|b| b.is_ascii_hexdigit()) {
                    return Err(BadId);
                }
                u128::from_str_radix(text, 16).map(Self).map_err(|_| BadId)
            }
        }

        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let text = std::borrow::Cow::<'_, str>::deserialize(deserializer)?;
                text.parse().map_err(serde::de::Error::custom)
            }
        }
    };
}

id128!(
    /// Which store this is: drawn once, when it is created.
    StoreId
);
id128!(
    /// A client's name for one transaction; see [`Store::outcome`](crate::store::Store::outcome).
    TxnId
);
id128!(
    /// Which object this is: a name that is deleted and made again gets another one.
    Uid
);
id128!(
    /// Who has sealed a store; see [`Store::seal`](crate::store::Store::seal).
    SealId
);
id128!(
    /// One process that holds a session.
    ReplicaId
);

/// Which object is meant, of whatever system.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct ObjectRef {
    /// The kind, for example `TargetGroup`.
    pub kind: String,
    /// The name.
    pub name: String,
}

impl Display for ObjectRef {
    fn fmt(&self, f: &mut Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.kind, self.name)
    }
}
