//! The order of starts and stops.

use supervisor::{Condition, Error, Kind, Restart};

use crate::fixture::{World, sh};

#[tokio::test]
async fn starts_follow_dependencies_and_stops_reverse_them() {
    let world = World::new();
    let mut seed = world.service("seed", sh("echo seeded > seeded"));
    seed.restart = Restart::No;
    let mut db = world.server("db");
    db.depends_on.insert("seed".to_owned(), Condition::Completed);
    let mut api = world.service("api", sh("test -e seeded && sleep 1000"));
    api.depends_on.insert("db".to_owned(), Condition::Healthy);
    let mut web = world.service("web", sh("sleep 1000"));
    web.depends_on.insert("api".to_owned(), Condition::Started);
    let running = world.run(vec![web, api, db, seed]);
    running.start().await;
    running.ready("web").await;
    let started = |service| running.position(service, |kind| matches!(kind, Kind::Started { .. }));
    let exited = running.position("seed", |kind| matches!(kind, Kind::Exited { .. }));
    let ready = running.position("db", |kind| matches!(kind, Kind::Ready { .. }));
    assert!(exited < started("db") && ready < started("api") && started("api") < started("web"));

    let names = ["db", "api", "web"].map(str::to_owned).to_vec();
    running.handle.stop(names).await.unwrap();
    running.state("db", "stopped").await;
    let stopped = |service| running.position(service, |kind| *kind == Kind::Stopped);
    assert!(stopped("web") < stopped("api") && stopped("api") < stopped("db"));
    running.drain().await;
}

#[tokio::test]
async fn a_start_takes_its_dependencies_along_and_nothing_else() {
    let world = World::new();
    let mut api = world.service("api", sh("sleep 1000"));
    api.depends_on.insert("db".to_owned(), Condition::Healthy);
    let running = world.run(vec![api, world.service("db", sh("sleep 1000")), world.service("other", sh("sleep 1000"))]);
    running.handle.start(Some(vec!["api".to_owned()])).await.unwrap();
    running.ready("api").await;
    let snapshot = running.handle.snapshot();
    assert!(snapshot.service("db").unwrap().instances[0].ready);
    assert_eq!(snapshot.service("other").unwrap().instances[0].state.name(), "stopped");
    running.drain().await;
}

#[tokio::test]
async fn an_unknown_service_changes_nothing() {
    let world = World::new();
    let running = world.run(vec![world.service("a", sh("sleep 1000"))]);
    let wanted = ["a", "b"].map(str::to_owned).to_vec();
    let refused = running.handle.start(Some(wanted)).await.unwrap_err();
    assert!(matches!(refused, Error::UnknownService { service } if service == "b"));
    assert_eq!(running.handle.snapshot().services[0].instances[0].state.name(), "stopped");
    running.drain().await;
}

#[tokio::test]
async fn a_restarted_dependency_leaves_its_dependents_running() {
    let world = World::new();
    let mut api = world.service("api", sh("sleep 1000"));
    api.depends_on.insert("db".to_owned(), Condition::Healthy);
    let running = world.run(vec![api, world.service("db", sh("sleep 1000"))]);
    running.start().await;
    let before = running.ready("api").await;
    running.handle.restart(vec!["db".to_owned()]).await.unwrap();
    running.first("db", "restarted", |i| i.ready && i.generation == 1).await;
    assert_eq!(running.ready("api").await.pid, before.pid);
    running.drain().await;
}

#[tokio::test]
async fn stop_and_start_in_one_breath_end_running() {
    let world = World::new();
    let running = world.run(vec![world.service("a", sh("sleep 1000"))]);
    running.start().await;
    let first = running.ready("a").await;
    running.handle.stop(vec!["a".to_owned()]).await.unwrap();
    running.start().await;
    let second = running.first("a", "running again", |i| i.ready && i.pid != first.pid).await;
    assert_eq!(second.restarts, 0);
    running.drain().await;
}
