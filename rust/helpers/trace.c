// SPDX-License-Identifier: GPL-2.0
/* Defines the trace events, and for each a function that Rust calls. */

#define CREATE_TRACE_POINTS
#define CREATE_RUST_TRACE_POINTS
#include "trace.h"
