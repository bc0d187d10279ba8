//! Who calls whom, by number: an order in which paths can be measured without walking each, and the circles.

use std::cmp::Reverse;
use std::collections::{BTreeSet, VecDeque};
use std::time::Duration;

use crate::compile::edges::{ALL, Policies};
use crate::plan::{Fallback, Plan};

/// Services by their position in the plan, which is that of their names in order.
pub(super) struct Graph<'l> {
    pub names: Vec<&'l str>,
    /// Calls of each service, in the order of names.
    pub calls: Vec<Vec<Call>>,
    /// What the gateway calls, in the order of routes.
    pub entries: Vec<Entry>,
    /// Every service, after whatever it calls; but for calls that close a circle, which `rank` tells.
    order: Vec<usize>,
    /// Positions in `order`.
    rank: Vec<usize>,
    /// Services with the same number call each other, directly or not.
    circle: Vec<usize>,
}

pub(super) struct Call {
    pub to: usize,
    pub timeout: Duration,
    pub timeout_written: Written,
    /// The first one and the further ones.
    pub tries: u64,
}

/// Where the manifest says something of a call.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Written {
    Nowhere,
    ForOne,
    ForAll,
}

pub(super) struct Entry {
    pub route: usize,
    pub service: usize,
}

/// The largest value of any path from each service, and the call that leads there; no call where the path ends.
pub(super) struct Best {
    pub value: Vec<u64>,
    next: Vec<Option<usize>>,
}

impl<'l> Graph<'l> {
    /// `policies` are those of each service, in the plan's order.
    pub(super) fn of(plan: &'l Plan, policies: &[Policies<'_>]) -> Self {
        let names: Vec<&str> = plan.services.keys().map(String::as_str).collect();
        let number = |name: &str| names.binary_search(&name).ok();
        let calls = plan.services.values().zip(policies).map(|(service, policies)| {
            let written: BTreeSet<&str> =
                policies.iter().filter(|(_, table)| super::timeouts::is_written(table)).map(|(name, _)| name).collect();
            let otherwise = if written.contains(ALL) { Written::ForAll } else { Written::Nowhere };
            let calls = service.edges.iter().filter_map(|(upstream, edge)| {
                let timeout_written = if written.contains(upstream.as_str()) { Written::ForOne } else { otherwise };
                let (timeout, tries) = (edge.policy.waits(), u64::from(edge.policy.retry.attempts));
                Some(Call { to: number(upstream)?, timeout, timeout_written, tries })
            });
            calls.collect()
        });
        let calls = calls.collect();
        let entries = plan.routes.iter().enumerate().flat_map(|(route, rule)| {
            let taking = rule.backends.iter().filter(|backend| backend.weight > 0);
            let fallback = match &rule.policy.fallback {
                Some(Fallback::Service { service }) => Some(service.as_str()),
                _ => None,
            };
            let services = taking.map(|backend| backend.service.as_str()).chain(fallback).filter_map(number);
            services.map(move |service| Entry { route, service }).collect::<Vec<_>>()
        });
        let entries = entries.collect();
        let mut graph = Self { names, calls, entries, order: Vec::new(), rank: Vec::new(), circle: Vec::new() };
        graph.sort();
        graph.mark_circles();
        graph
    }

    /// How many services call each one.
    pub(super) fn callers(&self) -> Vec<usize> {
        let mut callers = vec![0; self.names.len()];
        self.calls.iter().flatten().for_each(|call| callers[call.to] += 1);
        callers
    }

    /// Whether both are on one circle.
    pub(super) fn is_circular(&self, from: usize, to: usize) -> bool {
        self.circle[from] == self.circle[to]
    }

    /// A depth-first walk from where requests come in, so that what closes a circle is a call back to what led there.
    fn sort(&mut self) {
        let callers = self.callers();
        let called = self.entries.iter().map(|entry| entry.service);
        let uncalled = (0..self.names.len()).filter(|service| callers[*service] == 0);
        let mut seen = vec![false; self.names.len()];
        for start in called.chain(uncalled).chain(0..self.names.len()) {
            let mut path: Vec<(usize, usize)> = Vec::new();
            if !std::mem::replace(&mut seen[start], true) {
                path.push((start, 0));
            }
            while let Some((service, followed)) = path.last_mut() {
                let Some(call) = self.calls[*service].get(*followed) else {
                    self.order.push(*service);
                    path.pop();
                    continue;
                };
                *followed += 1;
                if !std::mem::replace(&mut seen[call.to], true) {
                    path.push((call.to, 0));
                }
            }
        }
        self.rank = vec![0; self.names.len()];
        self.order.iter().enumerate().for_each(|(rank, service)| self.rank[*service] = rank);
    }

    /// The second half of Kosaraju's algorithm: backwards from whatever was left last.
    fn mark_circles(&mut self) {
        let mut callers: Vec<Vec<usize>> = vec![Vec::new(); self.names.len()];
        for (caller, calls) in self.calls.iter().enumerate() {
            calls.iter().for_each(|call| callers[call.to].push(caller));
        }
        const NONE: usize = usize::MAX;
        self.circle = vec![NONE; self.names.len()];
        for start in self.order.iter().rev() {
            let mut waiting = vec![*start];
            while let Some(service) = waiting.pop() {
                if self.circle[service] == NONE {
                    self.circle[service] = *start;
                    waiting.extend(&callers[service]);
                }
            }
        }
    }

    /// Measures every path at once. A path that ends at once is worth 1; `gain` says what a call makes of the rest. Calls
    /// that close a circle are left out, so that the paths are real ones and have an end.
    pub(super) fn best(&self, gain: impl Fn(&Call, u64) -> u64) -> Best {
        let mut best = Best { value: vec![1; self.names.len()], next: vec![None; self.names.len()] };
        for service in &self.order {
            for (at, call) in self.calls[*service].iter().enumerate() {
                if self.rank[call.to] < self.rank[*service] {
                    let value = gain(call, best.value[call.to]);
                    if value > best.value[*service] {
                        (best.value[*service], best.next[*service]) = (value, Some(at));
                    }
                }
            }
        }
        best
    }

    /// The calls of the best path from a service, each with its caller.
    pub(super) fn follow(&self, best: &Best, from: usize) -> Vec<(usize, &Call)> {
        let mut calls = Vec::new();
        let mut service = from;
        while let Some(call) = best.next[service].and_then(|at| self.calls[service].get(at)) {
            calls.push((service, call));
            service = call.to;
        }
        calls
    }

    /// Services that a path worth telling begins with: not those whose path is the rest of another one that is worth as
    /// much. Each comes with its value.
    pub(super) fn leading(&self, best: &Best, mut starts: Vec<(usize, u64)>) -> Vec<usize> {
        starts.sort_by_key(|(service, _)| Reverse(self.rank[*service]));
        let mut passed = vec![0; self.names.len()];
        let leads = |(start, value): (usize, u64)| {
            if passed[start] >= value {
                return None;
            }
            passed[start] = value;
            for (_, call) in self.follow(best, start) {
                passed[call.to] = value.max(passed[call.to]);
            }
            Some(start)
        };
        starts.into_iter().filter_map(leads).collect()
    }

    /// Circles, each once and as short as it can be, until every call that is part of one is shown; at most `max` among
    /// services that are all on circles with each other. A circle begins with its first name.
    pub(super) fn circles(&self, max: usize) -> Vec<Vec<usize>> {
        let mut circles: Vec<Vec<usize>> = Vec::new();
        let mut shown: BTreeSet<(usize, usize)> = BTreeSet::new();
        let mut counts = vec![0; self.names.len()];
        for (from, calls) in self.calls.iter().enumerate() {
            for call in calls.iter().filter(|call| self.is_circular(from, call.to)) {
                let count = &mut counts[self.circle[from]];
                if *count == max || shown.contains(&(from, call.to)) {
                    continue;
                }
                *count += 1;
                let mut circle = self.way(call.to, from);
                shown.extend(circle.iter().copied().zip(circle.iter().copied().skip(1)));
                shown.insert((from, call.to));
                let first = circle.iter().enumerate().min_by_key(|(_, service)| **service).map_or(0, |(at, _)| at);
                circle.rotate_left(first);
                circles.push(circle);
            }
        }
        circles
    }

    /// A shortest way within one circle, both ends included.
    fn way(&self, from: usize, to: usize) -> Vec<usize> {
        let mut before: Vec<Option<usize>> = vec![None; self.names.len()];
        let mut waiting = VecDeque::from([from]);
        while let Some(service) = waiting.pop_front().filter(|_| before[to].is_none()) {
            for call in &self.calls[service] {
                if before[call.to].is_none() && self.is_circular(service, call.to) {
                    before[call.to] = Some(service);
                    waiting.push_back(call.to);
                }
            }
        }
        let mut way = vec![to];
        let mut service = to;
        while service != from
            && let Some(last) = before[service]
        {
            way.push(last);
            service = last;
        }
        way.reverse();
        way
    }
}
