//! The variable HOST, which some systems set to an address to listen on and others to
//! something else.

use std::ffi::OsStr;

/// Whether the variable `HOST` is something other than an address to listen on: tcsh
/// exports the name of the machine, and conda the kind of machine that it compiles for.
pub(super) fn means_something_else(value: &OsStr) -> bool {
    let is = |other: &OsStr| value.eq_ignore_ascii_case(other);
    let own = gethostname::gethostname();
    let conda = std::env::var_os("CONDA_TOOLCHAIN_HOST");
    is(&own) || conda.is_some_and(|conda| is(&conda)) || is_kind_of_machine(value)
}

/// `x86_64-conda-linux-gnu`, `arm64-apple-darwin20.0.0` and the like.
fn is_kind_of_machine(value: &OsStr) -> bool {
    let value = value.to_string_lossy();
    let systems = ["-linux-gnu", "-apple-darwin", "-w64-mingw32"];
    systems.iter().any(|system| value.contains(system))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_shells_and_toolchains_export_is_not_an_address() {
        assert!(means_something_else(&gethostname::gethostname()));
        assert!(means_something_else(OsStr::new("x86_64-conda-linux-gnu")));
        assert!(means_something_else(OsStr::new("arm64-apple-darwin20.0.0")));
        assert!(!means_something_else(OsStr::new("localhost")));
        assert!(!means_something_else(OsStr::new("0.0.0.0")));
    }
}
