//! The local time zone. Asked for here because the collector, which needs it, can open no file.
#![expect(unsafe_code, reason = "std and rustix know no time zones; one call of libc does")]

use std::mem::MaybeUninit;

/// Seconds east of UTC, now. A change of summer time during a run is not followed.
#[must_use]
pub fn utc_offset_s() -> i32 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Realtime).tv_sec;
    let mut local = MaybeUninit::<libc::tm>::uninit();
    // SAFETY: both pointers are to memory of the right types that lives through the call. localtime_r reads the
    // environment's TZ; nothing of this program ever changes the environment.
    let filled = unsafe { libc::localtime_r(&raw const now, local.as_mut_ptr()) };
    if filled.is_null() {
        return 0;
    }
    // SAFETY: localtime_r has filled it, as it did not answer null.
    let local = unsafe { local.assume_init() };
    i32::try_from(local.tm_gmtoff).unwrap_or(0)
}
