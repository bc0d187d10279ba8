//! The command line: one file a command. Data goes to stdout, the rest to stderr.

mod breaker;
mod bus;
mod check;
mod config;
mod consumer;
mod daemon;
mod dead_letter;
mod describe;
mod doctor;
mod down;
mod edges;
mod events;
mod exec;
mod explain;
mod failure;
mod fault;
mod init;
mod kill;
mod lifecycle;
mod logs;
mod new;
mod output;
mod plan;
mod program;
mod ps;
mod publish;
mod replay;
mod routes;
mod run;
mod scale;
mod screen;
mod stream;
mod sub;
mod subject;
mod tail;
mod target;
mod top;
mod topics;
mod up;
mod wait;

use std::process::ExitCode;

use clap::{CommandFactory, Parser, Subcommand};

use failure::Failure;
use output::Format;

/// The microservices platform in one binary.
#[derive(Debug, Parser)]
#[command(
    name = "atoll",
    version,
    max_term_width = 100,
    after_help = "Exit codes: 0 done, 1 refused or failed, \
2 wrong usage, 3 asked-for state not reached or not running, 70 a bug of ours."
)]
struct Arguments {
    /// How to print results
    #[arg(short, long, global = true, value_enum, default_value = "table", value_name = "FORMAT")]
    output: Format,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Build and start the application, or some of its services
    Up(up::Up),
    /// Stop everything, the daemon included
    Down(down::Down),
    /// Show the instances
    Ps(ps::Ps),
    /// Show what the services wrote
    Logs(logs::Logs),
    /// Start services, and what they depend on
    Start(lifecycle::Services),
    /// Stop services
    Stop(lifecycle::Services),
    /// Stop services and start them again
    Restart(lifecycle::Services),
    /// Run another number of instances, as in `atoll scale catalog=3`
    Scale(scale::Scale),
    /// Send a signal to services or single instances, as a crash
    Kill(kill::Kill),
    /// Wait until services are ready, stopped or have exited
    Wait(wait::Wait),
    /// Show what happened to instances and configuration
    Events(events::Events),
    /// Show CPU, memory and requests of every instance, again and again
    Top(top::Top),
    /// Show rate, durations and errors of every route and of every edge between services
    Edges(edges::Edges),
    /// See circuit breakers, and switch them
    #[command(subcommand)]
    Breaker(breaker::Breaker),
    /// Have things go wrong on purpose, for a drill
    #[command(subcommand)]
    Fault(fault::Fault),
    /// Say what happened to a request, and why
    Explain(explain::Explain),
    /// Show who publishes what and who listens, and how far each subscription is
    Topics(topics::Topics),
    /// See events that could not be delivered, and deliver them again or give them up
    #[command(subcommand)]
    DeadLetter(dead_letter::DeadLetter),
    /// Deliver events of a topic to a subscription once more
    Replay(replay::Replay),
    /// Publish a message to a subject
    Publish(publish::Publish),
    /// Show messages as they come, or as a stream has kept them
    Sub(sub::Sub),
    /// See the streams of the broker
    #[command(subcommand)]
    Stream(stream::Stream),
    /// See who reads a stream
    #[command(subcommand)]
    Consumer(consumer::Consumer),
    /// Run a command with the environment of an instance
    Exec(exec::Exec),
    /// Run one more copy of a service, or another command in its place, in the foreground
    Run(run::Run),
    /// Print the compiled manifest
    Plan(plan::Plan),
    /// Say what is wrong with the manifest
    Check(check::Check),
    /// Show everything about a service, the gateway or the broker
    Describe(describe::Describe),
    /// Show the routes in the order in which they are tried
    Routes(routes::Routes),
    /// About the manifest's format
    #[command(subcommand)]
    Config(config::Config),
    /// Find out whether this machine can run the application
    Doctor(doctor::Doctor),
    /// Write a first manifest from what is there: a Compose file, a Procfile, a package
    Init(init::Init),
    /// Write the folder of something new
    #[command(subcommand)]
    New(new::New),
    /// Print a completion script for a shell
    Completion {
        /// Which shell
        shell: clap_complete::Shell,
    },
    /// Print the version
    Version,
    /// See or stop the process that runs the application
    #[command(subcommand)]
    Daemon(daemon::Daemon),
}

/// What a command needs besides its own arguments.
struct Context {
    format: Format,
}

/// Runs one command and gives the exit code of the process.
pub fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let context = Context { format: arguments.output };
    match run(arguments.command, &context) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => failure::report(&error),
    }
}

fn run(command: Command, context: &Context) -> anyhow::Result<()> {
    match command {
        Command::Up(up) => up.run(context),
        Command::Down(down) => down.run(context),
        Command::Ps(ps) => ps.run(context),
        Command::Logs(logs) => logs.run(context),
        Command::Start(services) => services.run(context, lifecycle::Verb::Start),
        Command::Stop(services) => services.run(context, lifecycle::Verb::Stop),
        Command::Restart(services) => services.run(context, lifecycle::Verb::Restart),
        Command::Scale(scale) => scale.run(context),
        Command::Kill(kill) => kill.run(context),
        Command::Wait(wait) => wait.run(context),
        Command::Events(events) => events.run(context),
        Command::Top(top) => top.run(context),
        Command::Edges(edges) => edges.run(context),
        Command::Breaker(breaker) => breaker.run(context),
        Command::Fault(fault) => fault.run(context),
        Command::Explain(explain) => explain.run(context),
        Command::Topics(topics) => topics.run(context),
        Command::DeadLetter(dead_letter) => dead_letter.run(context),
        Command::Replay(replay) => replay.run(context),
        Command::Publish(publish) => publish.run(context),
        Command::Sub(sub) => sub.run(context),
        Command::Stream(stream) => stream.run(context),
        Command::Consumer(consumer) => consumer.run(context),
        Command::Exec(exec) => exec.run(),
        Command::Run(run) => run.run(),
        Command::Plan(plan) => plan.run(context),
        Command::Check(check) => check.run(context),
        Command::Describe(describe) => describe.run(context),
        Command::Routes(routes) => routes.run(context),
        Command::Config(config) => config.run(),
        Command::Doctor(doctor) => doctor.run(context),
        Command::Init(init) => init.run(context),
        Command::New(new) => new.run(context),
        Command::Completion { shell } => {
            // Into memory first: the generator panics when its writer fails, as a closed pipe does.
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut Arguments::command(), "atoll", &mut script);
            output::bytes(&script)
        }
        Command::Version => match context.format {
            Format::Table => output::line(&format!("atoll {}", env!("CARGO_PKG_VERSION"))),
            Format::Json => output::json(&serde_json::json!({ "version": env!("CARGO_PKG_VERSION") })),
        },
        Command::Daemon(daemon) => daemon.run(context),
    }
}

/// A runtime for a command that waits on more than one thing.
fn block_on<F: Future>(future: F) -> anyhow::Result<F::Output> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|error| Failure::new("cannot start the async runtime").because(error))?;
    Ok(runtime.block_on(future))
}
