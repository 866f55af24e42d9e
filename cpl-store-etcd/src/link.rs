//! One request to etcd: its deadline, and a fresh token when the old one is refused.

use std::fmt::{Debug, Formatter};
use std::sync::Arc;
use std::time::Duration;

use cpl_core::store::{Clock, Error, Kind};
use etcd_client::{Client, Error as EtcdError};
use futures::future::{BoxFuture, Either, select};

use crate::error::{Reason, reason, translate};

/// How long a request may take; etcd itself gives up after 7 s.
const DEADLINE: Duration = Duration::from_secs(10);
/// Largest answer: a page of the largest values, and more than a fragment of a watch.
pub(crate) const ANSWER_BYTES: usize = 64 << 20;

/// The connections to one cluster.
#[derive(Clone)]
pub(crate) struct Link {
    client: Client,
    pub(crate) clock: Arc<dyn Clock>,
}

impl Debug for Link {
    fn fmt(&self, f: &mut Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Link").finish_non_exhaustive()
    }
}

/// Why a request failed.
#[derive(Debug)]
pub(crate) struct Failed {
    pub(crate) reason: Reason,
    pub(crate) error: Error,
}

impl From<Failed> for Error {
    fn from(failed: Failed) -> Self {
        failed.error
    }
}

impl Link {
    pub(crate) const fn new(client: Client, clock: Arc<dyn Clock>) -> Self {
        Self { client, clock }
    }

    /// Runs one request. A token that is refused is renewed, and the request is sent once more: it is refused
    /// before anything is proposed.
    pub(crate) async fn call<T>(
        &self,
        context: &'static str,
        request: impl Fn(Client) -> BoxFuture<'static, Result<T, EtcdError>> + Send + Sync,
    ) -> Result<T, Failed>
    where
        T: Send,
    {
        let running = async {
            match request(self.client.clone()).await {
                Err(error) if reason(&error) == Reason::Token => {
                    self.client.refresh_token().await?;
                    request(self.client.clone()).await
                },
                answer => answer,
            }
        };
        match self.in_time(running).await {
            Some(Ok(answer)) => Ok(answer),
            Some(Err(error)) => Err(Failed {
                reason: reason(&error),
                error: translate(context, error),
            }),
            None => Err(Failed {
                reason: Reason::Other,
                error: Error::new(Kind::Timeout, context),
            }),
        }
    }

    async fn in_time<T>(&self, running: impl Future<Output = T>) -> Option<T> {
        match select(std::pin::pin!(running), self.clock.sleep(DEADLINE)).await {
            Either::Left((answer, _)) => Some(answer),
            Either::Right(_) => None,
        }
    }
}
