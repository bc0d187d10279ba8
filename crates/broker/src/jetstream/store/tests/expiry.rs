//! What time removes while other messages are on their way.

use std::time::Duration;

use kit::tasks::Tasks;

use std::sync::Arc;

use journal::RealDisk;

use super::model::open;
use crate::jetstream::store::{Limits, New, Place, Store};

fn message(subject: &str, time: i64) -> New<'_> {
    New { subject: subject.as_bytes(), headers: b"", payload: b"", time, ttl: None, rollup: None }
}

/// A store whose messages live ten nanoseconds, with one of `a` at time 100.
async fn begun(folder: &tempfile::TempDir) -> Store {
    let limits = Limits { max_age: Some(Duration::from_nanos(10)), ..Limits::default() };
    let place = Place::On(Arc::new(RealDisk), folder.path().join("stream"));
    let (mut store, _) = open(place, &limits, &[], &Tasks::default()).await;
    store.stage(&message("a", 100)).unwrap();
    let arrived = store.commit().await.unwrap().unwrap().await.unwrap();
    store.synced(arrived);
    store
}

#[tokio::test]
async fn nothing_is_due_that_must_wait_for_a_message_on_its_way() {
    let folder = tempfile::tempdir().unwrap();
    let mut store = begun(&folder).await;
    assert_eq!(store.next_expiry(), Some(110));
    store.stage(&message("b", 105)).unwrap();
    assert_eq!((store.next_expiry(), store.remove_expired(200)), (None, 0));
    let arrived = store.commit().await.unwrap().unwrap().await.unwrap();
    store.synced(arrived);
    assert_eq!((store.next_expiry(), store.remove_expired(112)), (Some(110), 1));
    store.stage(&message("b", 116)).unwrap();
    assert_eq!((store.next_expiry(), store.remove_expired(200)), (Some(115), 1));
}

#[tokio::test]
async fn the_last_of_a_subject_expires_once_and_not_with_a_successor_on_its_way() {
    let folder = tempfile::tempdir().unwrap();
    let mut store = begun(&folder).await;
    assert_eq!((store.last_expiring(109), store.last_expiring(110)), (vec![], vec![1]));
    store.stage(&message("a", 111)).unwrap();
    assert_eq!(store.last_expiring(200), [0_u64; 0]);
    let folder = tempfile::tempdir().unwrap();
    let mut store = begun(&folder).await;
    store.stage(&message("b", 105)).unwrap();
    assert_eq!(store.last_expiring(200), [0_u64; 0]);
}
