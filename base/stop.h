// The request to stop: SIGINT, SIGTERM, SIGUSR1 and SIGHUP set a flag that long work polls. A second signal (more than
// 50 ms later: a terminal sends one to the whole group) ends the process at once; nothing is left half-written, because
// whatever is pending has a temporary name.
#pragma once

namespace ceiling::stop {

void install_handlers();  // once, at the start of main
int requested();          // the signal's number, or 0
void check();             // throws Interrupted if requested
void reset();             // for tests

}  // namespace ceiling::stop
