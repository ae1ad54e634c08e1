//! How much memory this process may use.

use std::{fs, path::Path};

/// Where control groups are mounted (cgroup v2, and the memory controller of v1).
const GROUPS: [(&str, &str); 2] = [
    ("/sys/fs/cgroup", "memory.max"),
    ("/sys/fs/cgroup/memory", "memory.limit_in_bytes"),
];

/// How much this process may use, in bytes: what its control groups allow, or what the
/// machine has. None: unknown.
pub(super) fn allowed() -> Option<usize> {
    let own = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    let groups = GROUPS.iter().filter_map(|(root, file)| {
        let own = path_of(&own, root.ends_with("memory"))?;
        least_on_path(Path::new(root), own, file)
    });
    let machine = fs::read_to_string("/proc/meminfo").ok();
    let machine = machine.and_then(|text| total_of(&text));
    groups.chain(machine).min()
}

/// The path of this process in `/proc/self/cgroup`: lines `NUMBER:CONTROLLERS:PATH`, where
/// version 2 names no controllers.
fn path_of(groups: &str, is_v1: bool) -> Option<&str> {
    groups.lines().find_map(|line| {
        let mut fields = line.splitn(3, ':').skip(1);
        let (controllers, path) = (fields.next()?, fields.next()?);
        let is_it = match is_v1 {
            true => controllers.split(',').any(|name| name == "memory"),
            false => controllers.is_empty(),
        };
        is_it.then_some(path)
    })
}

/// The least that a group on the path allows. In a container the path may be that outside of
/// it, and only the root exists.
fn least_on_path(root: &Path, path: &str, file: &str) -> Option<usize> {
    let own = root.join(path.trim_start_matches('/'));
    let groups = own.ancestors().take_while(|group| group.starts_with(root));
    let limits = groups.filter_map(|group| {
        // "max" is no number: no limit.
        let limit = fs::read_to_string(group.join(file)).ok()?;
        limit.trim().parse().ok()
    });
    limits.min()
}

/// `MemTotal:  N kB` of `/proc/meminfo`, in bytes.
fn total_of(meminfo: &str) -> Option<usize> {
    let line = meminfo.lines().find_map(|l| l.strip_prefix("MemTotal:"))?;
    let kib: usize = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    kib.checked_mul(1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_group_of_this_process_is_found_in_both_versions() {
        let v2 = "0::/system.slice/signal.service\n";
        assert_eq!(path_of(v2, false), Some("/system.slice/signal.service"));
        assert_eq!(path_of(v2, true), None);
        let v1 = "12:cpu,cpuacct:/a\n4:memory:/docker/1:2\n1:name=systemd:/c\n";
        assert_eq!(path_of(v1, true), Some("/docker/1:2"));
        assert_eq!(path_of(v1, false), None);
    }

    #[test]
    fn the_least_limit_of_a_group_and_those_above_it_counts() {
        let root = tempfile::tempdir().unwrap();
        let own = root.path().join("a/b");
        fs::create_dir_all(&own).unwrap();
        let least = |path| least_on_path(root.path(), path, "memory.max");
        assert_eq!(least("/a/b"), None);
        fs::write(own.join("memory.max"), "max\n").unwrap();
        fs::write(root.path().join("a/memory.max"), "300\n").unwrap();
        assert_eq!(least("/a/b"), Some(300));
        fs::write(root.path().join("memory.max"), "200\n").unwrap();
        assert_eq!(least("/a/b"), Some(200));
        assert_eq!(least("/only/outside"), Some(200));
    }

    #[test]
    fn the_memory_of_the_machine_is_read() {
        assert_eq!(
            total_of("MemTotal:       24 kB\nMemFree: 1 kB\n"),
            Some(24 * 1024)
        );
        assert_eq!(total_of("MemFree: 1 kB\n"), None);
        assert!(allowed().is_some_and(|bytes| bytes > 1 << 20));
    }
}
