//! Meters across snapshots, and what a request costs.

use http::Method;

use super::*;
use crate::snapshot::{Backend, Listener, Match, PathMatch, Role, Route};

fn snapshot(routes: usize) -> Snapshot {
    let route = |number: usize| Route {
        name: format!("r{number}"),
        hostnames: vec![],
        // Two rules of one route are counted together.
        matches: ["/a", "/b"]
            .map(|path| Match {
                path: PathMatch::Prefix(format!("{path}/{number}")),
                methods: vec![],
                headers: vec![],
                query: vec![],
            })
            .to_vec(),
        filters: vec![],
        policy: crate::policy::Policy::plain(Duration::from_secs(1)),
        backends: vec![Backend { service: "s".into(), weight: 1 }],
    };
    let listener = Listener {
        role: Role::Gateway,
        routes: (0..routes).map(route).collect(),
        is_logged: true,
        tells_reason: false,
    };
    Snapshot { generation: 1, listeners: [("gateway".to_owned(), listener)].into(), services: BTreeMap::new() }
}

fn request(tables: &Tables, position: usize) -> bool {
    let table = tables.listener("gateway").unwrap();
    let mut metered = Metered::default();
    metered.route(&table.rules[position].route.meter, 0);
    let is_metered = metered.0.is_some();
    metered.end(&Shard::default(), &ended(&Method::GET));
    is_metered
}

fn ended(method: &Method) -> Ended<'_> {
    Ended {
        method,
        status: 200,
        reason: None,
        attempts: 1,
        bytes_in: 0,
        bytes_out: 1,
        duration: Duration::from_micros(300),
        upstream: Some(Duration::from_micros(200)),
    }
}

fn ended_of(readings: &Readings, route: &str) -> Option<u64> {
    let subject = Subject::Route { listener: "gateway".into(), route: route.into() };
    readings.meters.get(&subject).map(Reading::ended)
}

#[test]
fn a_meter_outlives_its_snapshot_and_goes_some_time_after_its_route() {
    let (meters, start) = (Meters::new(2), Instant::now());
    let (two, one) = (snapshot(2), snapshot(1));
    let (first, second) = (Tables::compile(&two).unwrap(), Tables::compile(&two).unwrap());
    assert!(!request(&first, 0), "nobody serves these yet");
    meters.assign(&two, &first, start);
    meters.assign(&two, &second, start);
    for position in 0..4 {
        assert!(request(&first, position) && request(&second, position));
    }
    let read = |after| meters.read(&[], start + after);
    assert_eq!((ended_of(&read(Duration::ZERO), "r0"), ended_of(&read(Duration::ZERO), "r1")), (Some(4), Some(4)));
    meters.assign(&one, &Tables::compile(&one).unwrap(), start);
    let later = read(GONE_MAX / 2);
    assert_eq!((ended_of(&later, "r0"), ended_of(&later, "r1")), (Some(4), Some(4)));
    let gone = read(GONE_MAX);
    assert_eq!((ended_of(&gone, "r0"), ended_of(&gone, "r1")), (Some(4), None));
    // Who still holds the old tables counts into nothing, and harms nobody.
    assert!(request(&first, 3));
}

#[test]
fn there_are_never_more_meters_than_the_bound() {
    let (meters, now) = (Meters::new(1), Instant::now());
    let many = snapshot(METERS_MAX + 10);
    meters.assign(&many, &Tables::compile(&many).unwrap(), now);
    assert_eq!(meters.read(&[], now).meters.len(), METERS_MAX);
    // Those that are gone make room for those that come.
    let (mut other, name) = (snapshot(20), "gateway");
    for route in &mut other.listeners.get_mut(name).unwrap().routes {
        route.name.insert(0, 'x');
    }
    let tables = Tables::compile(&other).unwrap();
    meters.assign(&other, &tables, now);
    assert_eq!(meters.read(&[], now).meters.len(), 20);
    assert!(tables.listener(name).unwrap().rules.iter().all(|rule| rule.route.meter.0.get().is_some()));
}
