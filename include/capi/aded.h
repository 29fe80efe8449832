/* What `cargo capi install` installs as <aded.h>: its pkg-config file cannot define ADED_FULL, and installs the full library. */
#ifndef ADED_FULL
#define ADED_FULL
#endif
#include "core/aded.h"
