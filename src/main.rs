//! The binary: settings, log, signals and exit status.

use std::{
    io::{IsTerminal, stdout},
    process::ExitCode,
    time::Duration,
};

use signal_http_heartbeat::{
    cli::{LogFormat, LogOpts, Settings, Unknown, explained},
    peer_list::ConnectError,
    server::{BindError, Door, Server, healthcheck},
};
use tokio::runtime::Builder;
use tracing::{Level, error, info, warn};
use tracing_appender::non_blocking::WorkerGuard;
use tracing_subscriber::{
    Layer, filter::Targets, fmt, layer::SubscriberExt, util::SubscriberInitExt,
};

/// The log target of the line that says that the server is ready.
const READY: &str = "signal_http_heartbeat::ready";

/// The exit status for settings that cannot be used.
const UNUSABLE: u8 = 2;

fn main() -> ExitCode {
    let settings = match Settings::from_args_and_env() {
        Ok(settings) => settings,
        Err(error) => {
            eprintln!("signal-http-heartbeat: {error}");
            return ExitCode::from(UNUSABLE);
        }
    };
    let result = if let Some((host, reached)) = settings.healthcheck() {
        healthcheck(host, reached).map_err(|error| error.to_string().into())
    } else if settings.is_check() {
        check(&settings)
    } else {
        // Dropping it writes the rest of the log.
        let _log = start_log(&settings.log);
        run(&settings)
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(Failure { line, status }) => {
            eprintln!("signal-http-heartbeat: {line}");
            status
        }
    }
}

/// Why the server ends, as one sentence for the person who started it.
struct Failure {
    line: String,
    status: ExitCode,
}

impl From<String> for Failure {
    fn from(line: String) -> Self {
        let status = ExitCode::FAILURE;
        Self { line, status }
    }
}

impl From<BindError> for Failure {
    fn from(error: BindError) -> Self {
        let (line, status) = match &error {
            BindError::Connect(why @ ConnectError::Unusable { .. }) => {
                (explained(why), ExitCode::from(UNUSABLE))
            }
            BindError::Connect(why) => (explained(why), ExitCode::FAILURE),
            BindError::Tls(why) => (why.to_string(), ExitCode::from(UNUSABLE)),
            BindError::Listen { .. } | BindError::Operator { .. } => {
                (error.to_string(), ExitCode::FAILURE)
            }
        };
        Self { line, status }
    }
}

/// Tries the settings, and says what the server would do.
fn check(settings: &Settings) -> Result<(), Failure> {
    let runtime = runtime_builder().enable_all().build();
    let runtime = runtime.map_err(|error| format!("the runtime cannot start: {error}"))?;
    let lines = runtime.block_on(settings.try_out()).map_err(|error| {
        let line = error.to_string();
        let status = ExitCode::from(UNUSABLE);
        Failure { line, status }
    })?;
    for line in lines {
        println!("{line}");
    }
    Ok(())
}

fn run(settings: &Settings) -> Result<(), Failure> {
    raise_file_limit();
    let runtime = runtime_builder()
        .enable_all()
        .build()
        .map_err(|error| format!("the runtime cannot start: {error}"))?;
    // In a task: it accepts connections, and the worker must not have to wake another
    // thread for each of them.
    let settings = settings.clone();
    let serving = runtime.spawn(async move { listen_and_serve(&settings).await });
    let result = runtime.block_on(serving);
    let result = result.unwrap_or_else(|error| Err(format!("the server failed: {error}").into()));
    // Not dropped: that would wait for unfinished tasks, and the time for those is over.
    runtime.shutdown_background();
    result
}

/// With few cores, one worker does all. Measured with `make bench`, beside a client on
/// the other of two cores and among 512 pairs: with one worker a message takes 26 us of
/// CPU time and the slowest percent arrives after 38 ms; with two workers, 29 us and 34
/// ms. tokio's current-thread runtime has shorter tails (23 ms) but takes 34 us: it lets
/// a receiver run only after all other ready tasks, when what its sender left for it is
/// no longer in the cache.
///
/// Tasks that a worker has no room for (beyond 256) wait in a global queue. If it is
/// looked at as rarely as tokio does by default, the slowest task waits for up to 121 ms;
/// if at each step, other tasks starve.
fn runtime_builder() -> Builder {
    const FEW: usize = 2;
    const GLOBAL_QUEUE_INTERVAL: u32 = 4;
    let mut builder = Builder::new_multi_thread();
    builder.global_queue_interval(GLOBAL_QUEUE_INTERVAL);
    match std::thread::available_parallelism() {
        Ok(cores) if cores.get() > FEW => {}
        _ => {
            builder.worker_threads(1);
        }
    }
    builder
}

async fn listen_and_serve(settings: &Settings) -> Result<(), Failure> {
    let stop = stop_signal().map_err(|error| format!("cannot listen to signals: {error}"))?;
    let mut opts = settings.server_opts();
    let by_files = connections_by_files();
    opts.serve.max_connections = opts.serve.max_connections.or(by_files);
    let server = Server::bind(opts.clone()).await?;
    if opts.app.token.is_some() && opts.app.doors.iter().any(|door| *door != Door::SocketIo) {
        warn!("TOKEN protects Socket.IO only: set WEBRTC_DOORS=socketio to close the other doors");
    }
    for Unknown { variable, nearest } in Settings::unknown_variables() {
        warn!(
            variable,
            did_you_mean = nearest,
            "this variable is not a setting of this server: see --help"
        );
    }
    if let Some(host) = &settings.ignored_host {
        warn!(
            host,
            "HOST is the name of this machine or of a toolchain, and is ignored: set WEBRTC_HOST"
        );
    }
    let ms = |duration: Duration| u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
    let address = server.local_addr();
    let webhook = opts.webhook.as_ref();
    let doors: Vec<&str> = opts.app.doors.iter().map(Door::name).collect();
    info!(
        target: READY,
        version = env!("CARGO_PKG_VERSION"),
        url = url_of(&server),
        doors = doors.join(","),
        address = address.map(tracing::field::display),
        tls = server.tls_addr().map(tracing::field::display),
        heartbeat_ms = ms(opts.heartbeat.timeout_period),
        heartbeat_gc_ms = ms(opts.heartbeat.gc_interval),
        wait_ms = ms(opts.app.signal.wait_timeout.unwrap_or_default()),
        max_peers = opts.heartbeat.max_peers,
        operator = server.operator_addr().map(tracing::field::display),
        redis = opts.cluster.is_some().then_some(true),
        webhook = webhook.and_then(|webhook| webhook.url.host_str()),
        peer_tokens = opts.app.signal.require_tokens.then_some("required"),
        "ready"
    );
    server.run(stop).await;
    info!("stopped");
    Ok(())
}

/// Where clients on this machine reach the server.
fn url_of(server: &Server) -> Option<String> {
    let plain = server.local_addr().map(|address| ("http", address));
    let (scheme, address) = plain.or_else(|| Some(("https", server.tls_addr()?)))?;
    if address.ip().is_unspecified() {
        return Some(format!("{scheme}://localhost:{}", address.port()));
    }
    Some(format!("{scheme}://{address}"))
}

/// Writes one line for each event. A thread of its own writes the lines, and drops some
/// rather than wait: a slow reader of the log must not be able to stop the server.
fn start_log(opts: &LogOpts) -> WorkerGuard {
    let (writer, guard) = tracing_appender::non_blocking(stdout());
    let log = fmt::layer()
        .with_writer(writer)
        .with_ansi(stdout().is_terminal() && !asks_for_no_color())
        .with_target(false)
        // The subscriber would panic if even standard error is closed.
        .log_internal_errors(false);
    let level = if opts.signal_logging {
        Level::INFO
    } else {
        Level::WARN
    };
    let filter = opts.filter.clone();
    let filter = filter.unwrap_or_else(|| Targets::new().with_default(level));
    // The person who started the server needs to know its port, and that it is ready.
    let filter = filter.with_target(READY, Level::INFO);
    let is_text = match opts.format {
        LogFormat::Auto => stdout().is_terminal(),
        LogFormat::Text => true,
        LogFormat::Json => false,
    };
    let log = if is_text {
        log.boxed()
    } else {
        log.json().flatten_event(true).boxed()
    };
    tracing_subscriber::registry()
        .with(log.with_filter(filter))
        .init();
    guard
}

/// See no-color.org.
fn asks_for_no_color() -> bool {
    std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty())
}

/// Each waiting peer is an open file. Shells set a limit (1,024) that programs are meant
/// to raise; Node does so too.
fn raise_file_limit() {
    #[cfg(unix)]
    if let Err(error) = rlimit::increase_nofile_limit(u64::MAX) {
        error!(%error, "cannot raise the limit of open files");
    }
}

/// How many open files are left for other things than connections of clients: the log, Redis,
/// the webhook, the operator.
const OTHER_FILES: u64 = 128;

/// How many connections the limit of open files allows.
fn connections_by_files() -> Option<usize> {
    let files = open_file_limit()?;
    let connections = files.saturating_sub(OTHER_FILES).max(files / 2);
    usize::try_from(connections).ok()
}

#[cfg(unix)]
fn open_file_limit() -> Option<u64> {
    let limits = rlimit::Resource::NOFILE.get();
    limits.ok().map(|(soft, _)| soft)
}

#[cfg(not(unix))]
fn open_file_limit() -> Option<u64> {
    None
}

/// Ready at the first signal to stop. The second signal ends the process at once.
#[cfg(unix)]
fn stop_signal() -> std::io::Result<impl Future<Output = ()>> {
    use tokio::signal::unix::{SignalKind, signal};

    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    Ok(async move {
        let mut next = async move || {
            tokio::select! {
                _ = terminate.recv() => SignalKind::terminate(),
                _ = interrupt.recv() => SignalKind::interrupt(),
            }
        };
        next().await;
        info!("stopping: open waits are answered; a second signal ends at once");
        tokio::spawn(async move {
            let signal = next().await.as_raw_value();
            // The exit status with which a shell reports a process that a signal ended.
            std::process::exit(128 + signal);
        });
    })
}

#[cfg(not(unix))]
fn stop_signal() -> std::io::Result<impl Future<Output = ()>> {
    Ok(async {
        // An error means that there is no console.
        if tokio::signal::ctrl_c().await.is_err() {
            std::future::pending().await
        }
    })
}
