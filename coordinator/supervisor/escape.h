// Text of a peer (names, log lines, reasons) made safe to show on a terminal.
#ifndef SWINFLEET_COORDINATOR_SUPERVISOR_ESCAPE_H_
#define SWINFLEET_COORDINATOR_SUPERVISOR_ESCAPE_H_

#include <string>

namespace swinfleet {

// `text` with everything that a terminal would obey instead of show written out: control characters
// and invalid bytes as \xNN, and marks that change the direction or the lines of text as \u{NNNN}.
// With `keep_non_ascii` false (a terminal without UTF-8) all that is not ASCII is written out too.
std::string EscapeForTerminal(const std::string& text, bool keep_non_ascii = true);

}  // namespace swinfleet

#endif  // SWINFLEET_COORDINATOR_SUPERVISOR_ESCAPE_H_
