//! Files that are not what was written: what is damaged is told with its place, everything else is served.

use std::path::PathBuf;
use std::sync::Arc;

use journal::sim::SimDisk;
use kit::tasks::Tasks;

use super::model::{Message, Model, message, open, seed};
use crate::jetstream::store::{Change, Error, Limits, Place, Store};

/// A stream of which a part was moved to `kept`, and which was closed.
async fn made(disk: &SimDisk, random: &mut fastrand::Rng) -> (Model, Vec<Change>) {
    let place = Place::On(Arc::new(disk.clone()), "/stream".into());
    let (mut store, _) = open(place, &Limits::default(), &[], &Tasks::default()).await;
    let mut model = Model::default();
    let mut changes = Vec::new();
    for sequence in 1..=200u64 {
        let mut message: Message = message(random, sequence, sequence as i64);
        (message.ttl, message.rollup) = (None, None);
        store.stage(&message.to_new()).expect("room");
        let pending = store.commit().await.expect("commits").expect("a file");
        store.synced(pending.await.expect("synced"));
        model.append(message);
        let old = sequence.saturating_sub(20);
        if old % 9 > 0
            && let Some(change) = store.remove(old, 0)
        {
            model.change(&change);
            changes.push(change);
        }
        while store.maintain().await.expect("maintains") {
            store.settle().await.expect("settles");
        }
    }
    assert!(store.index.kept_until > 1, "messages were moved");
    store.close().await.expect("closes");
    (model, changes)
}

/// Gives what is served; everything else is told.
async fn served(store: &mut Store, model: &Model, is_reported: bool) -> usize {
    let mut served = 0;
    for (sequence, expected) in &model.live {
        match store.load(*sequence).await {
            Ok(Some(found)) => {
                assert_eq!((&found.payload[..], found.time), (&expected.payload[..], expected.time));
                assert_eq!((found.subject, found.headers), (expected.subject.into(), expected.headers.clone().into()));
                served += 1;
            }
            Ok(None) => assert!(is_reported, "{sequence} is missing and nobody says why"),
            Err(Error::Journal(journal::Error::Damaged(damage))) => assert!(!damage.to_string().is_empty()),
            Err(error) => panic!("{}", kit::Chain(&error)),
        }
    }
    served
}

fn logs(disk: &SimDisk, folder: &str) -> Vec<(PathBuf, usize)> {
    let folder = PathBuf::from("/stream").join(folder);
    disk.files().into_iter().filter(|(path, _)| path.starts_with(&folder) && path.extension().is_some()).collect()
}

#[tokio::test]
async fn a_flipped_bit_takes_what_it_hit_and_nothing_else() {
    let seed = seed();
    for (life, folder) in (0..60).zip(["messages", "kept", "index"].into_iter().cycle()) {
        let mut random = fastrand::Rng::with_seed(seed.wrapping_add(life));
        let disk = SimDisk::new(life);
        let (model, changes) = made(&disk, &mut random).await;
        let logs = logs(&disk, folder);
        let (path, length) = &logs[random.usize(..logs.len())];
        let at = random.usize(..*length);
        println!("{folder}: {path:?} at {at}");
        assert!(disk.damage(path, |bytes| bytes[at] ^= 1 << random.u8(..8)));
        let place = Place::On(Arc::new(disk.clone()), "/stream".into());
        let (mut store, report) = open(place, &Limits::default(), &changes, &Tasks::default()).await;
        assert_eq!(store.last(), model.last, "no number is given again");
        let served = served(&mut store, &model, !report.damage.is_empty()).await;
        let lost = model.live.len() - served;
        // What was moved together lies in one frame.
        assert!(lost <= if folder == "kept" { 24 } else { 1 }, "{lost} messages are lost");
        assert!(folder != "index" || lost == 0, "summaries can be made again");
    }
}

#[tokio::test]
async fn without_summaries_everything_is_found_again() {
    let seed = seed();
    for life in 0..10 {
        let disk = SimDisk::new(life);
        let (model, changes) = made(&disk, &mut fastrand::Rng::with_seed(seed.wrapping_add(life))).await;
        for (path, _) in disk.files() {
            if path.starts_with("/stream/index") {
                disk.lose(&path);
            }
        }
        let place = Place::On(Arc::new(disk.clone()), "/stream".into());
        for _ in 0..2 {
            let (mut store, report) = open(place.clone(), &Limits::default(), &changes, &Tasks::default()).await;
            assert_eq!(report.damage, []);
            model.check(&mut store).await;
            store.close().await.expect("closes");
        }
    }
}
