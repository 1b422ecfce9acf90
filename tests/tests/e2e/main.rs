//! Everything that is tried on a real kernel with real containers, in one program.
//!
//! `ns_…` leaves the host's hooks alone; `host_…` changes core_pattern, puts it back, and is run by
//! `make check-host` only.

/// How the kernel calls, in tests that are run again for its socket.
#[cfg(test)]
const MODE: upcalld::hooks::install::Mode = upcalld::hooks::install::Mode::Pipe;
#[cfg(test)]
use upcall_e2e::needs;

#[cfg(test)]
mod canary;
#[cfg(test)]
#[path = "../../security/host_attack.rs"]
mod host_attack;
#[cfg(test)]
mod host_bad_days;
#[cfg(test)]
mod host_crashes;
#[cfg(test)]
mod host_cut_short;
#[cfg(test)]
mod host_deliver;
#[cfg(test)]
mod host_hooks;
#[cfg(test)]
mod host_key_bad_days;
#[cfg(test)]
mod host_key_helpers;
mod host_key_install;
#[cfg(test)]
mod host_key_kernel;
mod host_key_killed;
#[cfg(test)]
mod host_key_many;
mod host_key_names;
mod host_key_pass;
mod host_key_runtimes;
#[cfg(test)]
mod host_key_scene;
mod host_key_suite;
#[cfg(test)]
mod host_keys;
#[cfg(test)]
mod host_kinds;
#[cfg(test)]
mod host_missed;
#[cfg(test)]
mod host_module_install;
#[cfg(test)]
mod host_module_lockdown;
mod host_module_scene;
#[cfg(test)]
mod host_modules;
#[cfg(test)]
mod host_put_back;
#[cfg(test)]
mod host_scene;
#[cfg(test)]
mod host_socket;
#[cfg(test)]
mod host_socket_install;
#[cfg(test)]
mod host_static;
#[cfg(test)]
mod host_storm;
#[cfg(test)]
mod host_takers;
#[cfg(test)]
mod host_umh;
#[cfg(test)]
mod host_unit;
#[cfg(test)]
#[path = "../../security/ns_attack.rs"]
mod ns_attack;
#[cfg(test)]
mod ns_bad_days;
#[cfg(test)]
mod ns_containers;
#[cfg(test)]
mod ns_coredumpctl;
#[cfg(test)]
mod ns_daemon;
#[cfg(test)]
mod ns_deliver;
#[cfg(test)]
mod ns_faults;
#[cfg(test)]
mod ns_file;
#[cfg(test)]
mod ns_helpers;
#[cfg(test)]
mod ns_killed;
#[cfg(test)]
mod ns_limits;
#[cfg(test)]
mod ns_machine;
#[cfg(test)]
mod ns_machine_deliver;
#[cfg(test)]
mod ns_machine_faults;
#[cfg(test)]
mod ns_machine_units;
#[cfg(test)]
mod ns_module_shim;
mod ns_pass;
#[cfg(test)]
mod ns_pipeline;
#[cfg(test)]
mod ns_post;
#[cfg(test)]
mod ns_profile;
#[cfg(test)]
mod ns_rules;
#[cfg(test)]
mod ns_runtime_admin;
#[cfg(test)]
mod ns_runtime_oci;
#[cfg(test)]
mod ns_runtime_system;
#[cfg(test)]
mod ns_scarce;
#[cfg(test)]
mod ns_service;
#[cfg(test)]
mod ns_spool;
mod ns_store;
#[cfg(test)]
mod ns_takers;
#[cfg(test)]
mod ns_umh;
#[cfg(test)]
mod ns_versions;
#[cfg(test)]
mod scene;
