//! What instances write.

use supervisor::{Restart, logs};
use tokio::sync::broadcast::error::RecvError;

use crate::fixture::{World, sh, words};

#[tokio::test]
async fn lines_keep_their_stream_and_the_last_needs_no_end() {
    let world = World::new();
    let mut service = world.service("a", sh("echo out; echo err >&2; printf 'no end'"));
    service.restart = Restart::No;
    let running = world.run(vec![service]);
    let mut followed = running.handle.logs();
    running.start().await;
    running.state("a", "exited").await;
    running.drain().await;
    let lines = logs::load(&world.path("logs"), &logs::Filter::default()).unwrap();
    let mut texts: Vec<(logs::Stream, &str)> = lines.iter().map(|line| (line.stream, &*line.text)).collect();
    texts.sort_by_key(|(_, text)| *text);
    assert_eq!(texts, [(logs::Stream::Stderr, "err"), (logs::Stream::Stdout, "no end"), (logs::Stream::Stdout, "out")]);
    let mut count = 0;
    while followed.try_recv().is_ok() {
        count += 1;
    }
    assert_eq!(count, 3);
}

#[tokio::test]
async fn a_flood_of_long_lines_is_split_and_stops_nobody() {
    let world = World::new();
    let script = "
import sys
for n in range(8):
    sys.stdout.write('x' * (1 << 20) + '\\n')
sys.stdout.buffer.write(b'\\xff\\xfe end\\n')
";
    let mut service = world.service("a", words(&["python3", "-c", script]));
    service.restart = Restart::No;
    let running = world.run(vec![service]);
    running.start().await;
    let status = running.state("a", "exited").await;
    assert!(status.last_lines.iter().all(|line| line.len() <= 400));
    running.drain().await;
    let lines = logs::load(&world.path("logs"), &logs::Filter::default()).unwrap();
    assert_eq!(lines.last().map(|line| line.text.as_str()), Some("\u{fffd}\u{fffd} end"));
    assert!(lines.iter().all(|line| line.text.len() <= 64 << 10));
    assert_eq!(lines.iter().map(|line| line.text.matches('x').count()).sum::<usize>(), 8 << 20);
    assert_eq!(lines.iter().filter(|line| !line.split).count(), 9);
}

#[tokio::test]
async fn a_slow_follower_is_told_that_it_missed_lines() {
    let world = World::new();
    let mut service = world.service("a", sh("seq 1 5000"));
    service.restart = Restart::No;
    let running = world.run(vec![service]);
    let mut follower = running.handle.logs();
    running.start().await;
    running.state("a", "exited").await;
    assert!(matches!(follower.recv().await, Err(RecvError::Lagged(_))));
    running.drain().await;
    assert_eq!(world.lines().len(), 5000);
}

#[tokio::test]
async fn one_who_follows_later_sees_what_is_written_from_then_on() {
    let world = World::new();
    let script = "echo before; while ! test -e go; do sleep 0.01; done; echo after; exec sleep 1000";
    let running = world.run(vec![world.service("a", sh(script))]);
    let mut first = running.handle.logs();
    running.start().await;
    assert_eq!(first.recv().await.unwrap().text, "before");
    let mut follower = running.handle.logs();
    std::fs::write(world.path("go"), "").unwrap();
    assert_eq!(follower.recv().await.unwrap().text, "after");
    running.drain().await;
}

#[tokio::test]
async fn a_lost_log_folder_costs_lines_and_nothing_else() {
    let world = World::new();
    let running = world.run(vec![world.service("a", sh("while :; do echo line; sleep 0.01; done"))]);
    // A folder where the file should be: every write fails, whoever we are.
    std::fs::create_dir(world.path("logs/a.0.jsonl")).unwrap();
    running.start().await;
    let is_lost = |event: &supervisor::Event| matches!(event.kind, supervisor::Kind::LogsLost { .. });
    running.event("lost lines", is_lost).await;
    running.ready("a").await;
    std::fs::remove_dir(world.path("logs/a.0.jsonl")).unwrap();
    let is_resumed = |event: &supervisor::Event| matches!(event.kind, supervisor::Kind::LogsResumed { .. });
    running.event("lines again", is_resumed).await;
    assert_eq!(running.events().iter().filter(|event| is_lost(event)).count(), 1);
    running.drain().await;
}
