//! The healthcheck of a container finds its server by the flags that the server was started with.

use std::{ffi::OsString, path::Path};

/// The command line of the first process, which in a container is the server.
const FIRST_PROCESS: &str = "/proc/1/cmdline";

/// The arguments of a healthcheck, behind those of the server that runs in the same container:
/// `docker run IMAGE --port 4000` is then asked on port 4000. Other arguments stay as they are.
pub(super) fn with_flags_of_server(args: Vec<OsString>) -> Vec<OsString> {
    let line = std::fs::read(FIRST_PROCESS).unwrap_or_default();
    joined(args, &line)
}

fn joined(args: Vec<OsString>, line: &[u8]) -> Vec<OsString> {
    let [program, command] = &args[..] else {
        return args;
    };
    let line = String::from_utf8_lossy(line);
    let line = line.trim_end_matches('\0');
    let mut words = line.split('\0');
    let name = |path: &Path| path.file_name().map(ToOwned::to_owned);
    let own = name(Path::new(program));
    // Behind an init (`docker run --init`) it is not the first word.
    let is_server = words.any(|word| own.is_some() && name(Path::new(word)) == own);
    if command != "healthcheck" || !is_server {
        return args;
    }
    let flags: Vec<OsString> = words.map(OsString::from).collect();
    // `docker run IMAGE healthcheck` is the first process itself.
    if flags.contains(command) {
        return args;
    }
    [program.clone()]
        .into_iter()
        .chain(flags)
        .chain([command.clone()])
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_healthcheck_has_the_flags_of_the_server_of_its_container() {
        let joined = |args: &[&str], line: &str| {
            let args = args.iter().map(OsString::from).collect();
            joined(args, line.as_bytes())
        };
        let healthcheck = ["/signal-http-heartbeat", "healthcheck"];
        let server = "/signal-http-heartbeat\x00--port\x004000\x00";
        assert_eq!(
            joined(&healthcheck, server),
            ["/signal-http-heartbeat", "--port", "4000", "healthcheck"]
        );
        assert_eq!(
            joined(&healthcheck, "/signal-http-heartbeat\x00"),
            healthcheck
        );
        let init = "/sbin/docker-init\x00--\x00/signal-http-heartbeat\x00--port\x004000\x00";
        assert_eq!(joined(&healthcheck, init), joined(&healthcheck, server));
        // On a machine the first process is another program, or cannot be seen.
        assert_eq!(
            joined(&healthcheck, "/sbin/init\x00--port\x004000\x00"),
            healthcheck
        );
        assert_eq!(joined(&healthcheck, ""), healthcheck);
        let itself = "/signal-http-heartbeat\x00healthcheck\x00";
        assert_eq!(joined(&healthcheck, itself), healthcheck);
        let own = ["signal-http-heartbeat", "healthcheck", "--port", "5000"];
        assert_eq!(joined(&own, server), own);
        let serves = ["signal-http-heartbeat", "--help"];
        assert_eq!(joined(&serves, server), serves);
    }
}
