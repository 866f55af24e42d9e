use std::sync::Arc;

use cpl_core::ids::{ReplicaId, StoreId, TxnId};
use cpl_core::lease::claim;
use cpl_core::store::{MemoryStore, Store};
use cpl_core::txn::{Fence, FencedTxn, Guard, Held, KeyKind, Settled, commit};
use cpl_core::version::Epoch;
use cpl_host::Host;

const NOTE: KeyKind<Held> = KeyKind::new("/cpl/v1/notes/{name}");

#[tokio::test]
async fn a_predecessor_can_no_longer_write_once_its_shard_is_taken() {
    let host = Host::new();
    let store: Arc<dyn Store> = Arc::new(MemoryStore::new(StoreId(1), Arc::clone(&host.clock)));
    let take = |replica| claim(&*store, &*host.clock, &*host.ids, ReplicaId(replica));
    let old = take(1).await.unwrap();
    let new = take(2).await.unwrap();
    assert_eq!(
        (old.shard.owner().epoch, new.shard.owner().epoch),
        (Epoch(1), Epoch(2))
    );

    for (name, fence, may) in [
        ("old shard", &old.shard as &dyn Fence, false),
        ("old session", &old.session, false),
        ("new shard", &new.shard, true),
        ("new session", &new.session, true),
    ] {
        let mut txn = FencedTxn::new(TxnId::fresh(&*host.ids), fence);
        txn.put(NOTE.key(&[name]), Guard::ABSENT, &1);
        let deadline = host.clock.monotonic();
        let settled = commit(&*store, &*host.clock, &*host.ids, txn, deadline)
            .await
            .unwrap();
        assert_eq!(matches!(settled, Settled::Applied(_)), may, "{name}");
    }
}
