//! What the plan has agreed on a route or an edge → what the data plane is told of it. A part that is new on either side
//! does not compile before it is here.

use manifest::plan;

pub(super) fn policy(from: &plan::Policy) -> proxy::Policy {
    let plan::Policy {
        timeout,
        total_timeout,
        connect_timeout,
        idle_timeout,
        retry,
        load_balancing,
        outlier_ejection,
        circuit_breaker,
        concurrency_limit,
        rate_limit,
        fallback,
    } = from.clone();
    proxy::Policy {
        timeout,
        total_timeout,
        connect_timeout,
        idle_timeout,
        retry: self::retry(retry),
        balance: balance(load_balancing),
        ejection: outlier_ejection.as_ref().map(ejection),
        breaker: circuit_breaker.as_ref().map(breaker),
        concurrency: concurrency_limit.as_ref().map(concurrency),
        rate_limit: rate_limit.map(self::rate_limit),
        fallback: fallback.map(self::fallback),
        absence: proxy::Absence::Failure,
    }
}

fn retry(from: plan::Retry) -> proxy::Retry {
    let plan::Retry { attempts, codes, backoff, backoff_max, try_timeout, unsafe_methods } = from;
    proxy::Retry { attempts, codes, backoff, backoff_max, try_timeout, unsafe_methods }
}

fn balance(from: plan::Balance) -> proxy::Balance {
    let plan::Balance { policy, hash_on, slow_start, panic_threshold } = from;
    let algorithm = match policy {
        plan::Algorithm::LeastRequests => proxy::Algorithm::LeastRequests,
        plan::Algorithm::RoundRobin => proxy::Algorithm::RoundRobin,
        plan::Algorithm::PeakEwma => proxy::Algorithm::PeakEwma,
        // The compiler sees to it that there is a key.
        plan::Algorithm::RingHash => proxy::Algorithm::RingHash(hash_on.map_or(proxy::Key::Address, key)),
    };
    proxy::Balance { algorithm, slow_start, panic_threshold: share(panic_threshold) }
}

fn ejection(from: &plan::Ejection) -> proxy::Ejection {
    let plan::Ejection { consecutive_failures, failure_rate, window, minimum_calls, time, time_max, max_ejected } =
        *from;
    proxy::Ejection {
        consecutive_failures,
        failure_rate: failure_rate.map(share),
        window,
        minimum_calls,
        time,
        time_max,
        share_max: share(max_ejected),
    }
}

fn breaker(from: &plan::Breaker) -> proxy::Breaker {
    let plan::Breaker { failure_rate, window, minimum_calls, slow_call, slow_call_rate, open_for, half_open_calls } =
        *from;
    proxy::Breaker {
        window: match window {
            plan::Window::Time(time) => proxy::Window::Time(time),
            plan::Window::Calls(calls) => proxy::Window::Calls(calls),
        },
        minimum_calls,
        failure_rate: share(failure_rate),
        slow_call,
        slow_call_rate: share(slow_call_rate),
        open_for,
        half_open_calls,
    }
}

fn concurrency(from: &plan::Concurrency) -> proxy::Concurrency {
    let plan::Concurrency { max, queue, wait } = *from;
    proxy::Concurrency { max, queue, wait }
}

fn rate_limit(from: plan::RateLimit) -> proxy::RateLimit {
    let plan::RateLimit { requests, per, burst, key } = from;
    proxy::RateLimit { requests, per, burst, key: self::key(key) }
}

fn fallback(from: plan::Fallback) -> proxy::Fallback {
    match from {
        plan::Fallback::Static { status, content_type, body } => proxy::Fallback::Static { status, content_type, body },
        plan::Fallback::Service { service } => proxy::Fallback::Service(service),
    }
}

fn key(from: plan::Key) -> proxy::Key {
    match from {
        plan::Key::Route => proxy::Key::Route,
        plan::Key::Address => proxy::Key::Address,
        plan::Key::Header(name) => proxy::Key::Header(name),
        plan::Key::Cookie(name) => proxy::Key::Cookie(name),
    }
}

fn share(from: plan::Share) -> proxy::Share {
    proxy::Share::of(from.part())
}
