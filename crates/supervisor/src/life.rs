//! One life of one instance, from the spawn until everything of it is gone. The only one who touches its process; the
//! loop sends it orders and gets reports.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

use kit::Chain;
use kit::tasks::Tasks;
use rustix::net::{AddressFamily, SocketFlags, SocketType, bind, ipproto, socket_with, sockopt};
use rustix::process::Signal;
use tokio::net::unix::pipe::Receiver;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::config::Probes;
use crate::logs::capture::{self, Origin, Sink, Tail};
use crate::logs::pipe::Lines;
use crate::logs::{Limits, Stream};
use crate::probe::check::Target;
use crate::probe::{self, Verdict};
use crate::process::{Output, Process, Spec};
use crate::procfs;
use crate::status::Exit;

/// Limit: orders on their way to a life. It is given two at most: to stop, and to be killed.
pub(crate) const ORDERS_MAX: usize = 4;

/// Limit: verdicts on their way from the probes.
const VERDICTS_MAX: usize = 4;

/// What a life needs to know.
#[derive(Debug)]
pub(crate) struct Plan {
    pub(crate) service: Arc<str>,
    pub(crate) instance: u32,
    pub(crate) address: SocketAddr,
    pub(crate) spec: Spec,
    pub(crate) probes: Probes,
    pub(crate) log: Limits,
    pub(crate) sink: Sink,
    pub(crate) tasks: Tasks,
}

/// What the loop may ask of a life.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Order {
    Stop(Signal),
    Kill,
}

/// What a life says, in this order: `Failed`, or `Started`, any number of `Probed`, `Exited`, `Gone`.
#[derive(Debug)]
pub(crate) enum News {
    /// It could not be started, and nothing is left of the attempt.
    Failed {
        reason: String,
    },
    Started {
        pid: u32,
    },
    Probed(Verdict),
    /// The leader's end, as soon as it is known.
    Exited {
        exit: Exit,
        seen_at: Instant,
    },
    /// Nothing of it runs any more and its output is read.
    Gone {
        last_lines: Vec<String>,
    },
}

/// Tells the loop, and which life it is: the loop ignores what an older one says.
#[derive(Clone, Debug)]
pub(crate) struct Reporter {
    pub(crate) service: Arc<str>,
    pub(crate) instance: u32,
    pub(crate) life: u64,
    pub(crate) reports: mpsc::Sender<crate::engine::Report>,
}

impl Reporter {
    async fn send(&self, news: News) {
        let (service, instance, life) = (Arc::clone(&self.service), self.instance, self.life);
        // The loop lives until every life is gone; if it does not, nobody is left to tell.
        let _ = self.reports.send(crate::engine::Report::Life { service, instance, life, news }).await;
    }
}

/// Runs one life. Whatever happens to it, the loop hears of its end.
pub(crate) async fn run(plan: Plan, orders: mpsc::Receiver<Order>, reporter: Reporter) {
    let tasks = plan.tasks.clone();
    if tasks.spawn(run_through(plan, orders, reporter.clone())).await.is_err() {
        // It panicked, the panic hook has said why, and its process was killed when it was dropped.
        reporter.send(News::Failed { reason: "a defect in Atoll ended it".to_owned() }).await;
    }
}

async fn run_through(plan: Plan, mut orders: mpsc::Receiver<Order>, reporter: Reporter) {
    let (process, pipes) = match start(&plan).await {
        Ok(started) => started,
        Err(reason) => return reporter.send(News::Failed { reason }).await,
    };
    let group = process.group();
    reporter.send(News::Started { pid: process.pid() }).await;
    let captured = Captured::start(&plan, pipes);

    let stopping = live(&plan, &process, &mut orders, &reporter).await;

    let seen_at = Instant::now();
    // Order: signal before reaping, while the zombie keeps the number of the group for it.
    if stopping == Stopping::No {
        group.signal(Signal::KILL);
    }
    let exit = process.reap();
    reporter.send(News::Exited { exit, seen_at }).await;
    if stopping == Stopping::Asked {
        // The rest of the group got the same signal and has the same time to finish: npm ends before its server does.
        tokio::select! {
            () = group.ended() => {}
            () = killed(&mut orders) => {}
        }
    }
    group.clear().await;
    let last_lines = captured.finish().await;
    reporter.send(News::Gone { last_lines }).await;
}

/// Whether a life ends because it was told to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stopping {
    No,
    Asked,
    /// Its grace period is over.
    Forced,
}

async fn start(plan: &Plan) -> Result<(Process, [Receiver; 2]), String> {
    check_port(plan.address)?;
    let reason = |error| Chain(&error).to_string();
    let (pipes, output) = Output::apart().map_err(reason)?;
    let process = Process::spawn(&plan.spec, output).await.map_err(reason)?;
    Ok((process, pipes))
}

/// Says who has the port, while it is another process. Binds without listening, so that nobody can connect to us; a
/// connection of a former life in TIME_WAIT does not count (SO_REUSEADDR).
fn check_port(address: SocketAddr) -> Result<(), String> {
    let family = if address.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let tried = socket_with(family, SocketType::STREAM, SocketFlags::CLOEXEC, Some(ipproto::TCP)).and_then(|socket| {
        sockopt::set_socket_reuseaddr(&socket, true)?;
        bind(&socket, &address)
    });
    match tried {
        Err(rustix::io::Errno::ADDRINUSE) => {
            let holder = procfs::holder(address).unwrap_or_else(|| "another process".to_owned());
            Err(format!("port {} is taken by {holder}", address.port()))
        }
        // Any other trouble is for the instance to meet and to say.
        _ => Ok(()),
    }
}

/// Returns when the leader has ended.
async fn live(plan: &Plan, process: &Process, orders: &mut mpsc::Receiver<Order>, reporter: &Reporter) -> Stopping {
    let group = process.group();
    let (sender, mut verdicts) = mpsc::channel(VERDICTS_MAX);
    let target = Target { address: plan.address, spec: plan.spec.clone() };
    // Probes end with a final verdict; what is decided from it comes as an order.
    let probing = async {
        probe::run(&plan.probes, &target, &sender).await;
        std::future::pending::<()>().await;
    };
    let mut probing = std::pin::pin!(probing);
    let mut stopping = Stopping::No;
    loop {
        tokio::select! {
            biased;
            () = process.ended() => return stopping,
            Some(order) = orders.recv() => match order {
                Order::Stop(signal) => {
                    stopping = Stopping::Asked;
                    group.signal(signal);
                    // A stopped process acts on no signal but SIGKILL before it is continued.
                    group.signal(Signal::CONT);
                }
                Order::Kill => {
                    stopping = Stopping::Forced;
                    group.signal(Signal::KILL);
                }
            },
            Some(verdict) = verdicts.recv(), if stopping == Stopping::No => reporter.send(News::Probed(verdict)).await,
            () = &mut probing, if stopping == Stopping::No => {}
        }
    }
}

/// Returns when the grace period is over.
async fn killed(orders: &mut mpsc::Receiver<Order>) {
    while let Some(order) = orders.recv().await {
        if matches!(order, Order::Kill) {
            return;
        }
    }
    // The loop is gone, and with it whoever would say that the time is over.
}

/// The readers of both pipes.
struct Captured {
    readers: [JoinHandle<Tail>; 2],
    gone: CancellationToken,
}

impl Captured {
    fn start(plan: &Plan, [stdout, stderr]: [Receiver; 2]) -> Self {
        let gone = CancellationToken::new();
        let origin = |stream| Origin { service: Arc::clone(&plan.service), instance: plan.instance, stream };
        let stdout = Lines::new(stdout, plan.log.line_bytes_max, gone.clone());
        let stderr = Lines::new(stderr, plan.log.line_bytes_max, gone.clone());
        let readers = [
            plan.tasks.spawn(capture::run(stdout, origin(Stream::Stdout), plan.sink.clone())),
            plan.tasks.spawn(capture::run(stderr, origin(Stream::Stderr), plan.sink.clone())),
        ];
        Self { readers, gone }
    }

    /// Waits for the end of both pipes and hands out the last lines.
    async fn finish(self) -> Vec<String> {
        self.gone.cancel();
        let [stdout, stderr] = self.readers;
        let (stdout, stderr) = tokio::join!(stdout, stderr);
        // A reader that panicked has no last lines; the panic hook has said why.
        capture::merge(stdout.unwrap_or_default(), stderr.unwrap_or_default())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_taken_port_names_its_holder_and_a_free_one_is_free() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let reason = check_port(address).unwrap_err();
        let expected = format!("port {} is taken by pid {} (", address.port(), std::process::id());
        assert!(reason.starts_with(&expected), "{reason}");
        drop(listener);
        assert_eq!(check_port(address), Ok(()));
    }
}
