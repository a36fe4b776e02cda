// The address that the coordinator listens on.
#ifndef SWINFLEET_COORDINATOR_LISTEN_ADDRESS_H_
#define SWINFLEET_COORDINATOR_LISTEN_ADDRESS_H_

#include <string>

namespace swinfleet::coordinator {

struct ListenAddress {
  // Without the brackets of an IPv6 address.
  std::string host;
  int port = 0;

  // "host:port", with brackets where they belong.
  std::string ToString() const;
};

// Takes "HOST:PORT" or "[IPV6]:PORT" apart. Returns what is wrong with it, or an empty string.
std::string ParseListenAddress(const std::string& text, ListenAddress* out);

// Every address that the host stands for is one of this machine's loopback. Returns what is wrong
// if the host can't be looked up.
std::string CheckLoopback(const ListenAddress& address, bool* loopback);

// Why the address can't be listened on, for people ("Address already in use"); empty if it can.
std::string ProbeListen(const ListenAddress& address);

// Listens on the first address that the host stands for; a port that is 0 becomes the one that was
// chosen. Returns what is wrong, as ProbeListen does.
std::string OpenListener(ListenAddress* address, int* socket);

}  // namespace swinfleet::coordinator

#endif  // SWINFLEET_COORDINATOR_LISTEN_ADDRESS_H_
