#include "coordinator/listen_address.h"

#include <arpa/inet.h>
#include <netdb.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <cctype>
#include <cerrno>
#include <cstring>
#include <memory>

namespace swinfleet::coordinator {
namespace {

using AddressList = std::unique_ptr<addrinfo, decltype(&freeaddrinfo)>;

std::string LookUp(const ListenAddress& address, AddressList* list) {
  addrinfo hints{};
  hints.ai_socktype = SOCK_STREAM;
  hints.ai_flags = AI_PASSIVE | AI_NUMERICSERV;
  addrinfo* found = nullptr;
  const std::string port = std::to_string(address.port);
  const int error = getaddrinfo(address.host.c_str(), port.c_str(), &hints, &found);
  list->reset(found);
  return error == 0 ? "" : address.host + ": " + gai_strerror(error);
}

bool IsLoopback(const sockaddr* address) {
  if (address->sa_family == AF_INET) {
    const auto* v4 = reinterpret_cast<const sockaddr_in*>(address);
    return (ntohl(v4->sin_addr.s_addr) >> 24) == 127;
  }
  if (address->sa_family == AF_INET6) {
    return IN6_IS_ADDR_LOOPBACK(&reinterpret_cast<const sockaddr_in6*>(address)->sin6_addr);
  }
  return false;
}

std::string ListenOn(const addrinfo& address, int* out) {
  const int listener = socket(address.ai_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
  if (listener < 0) return strerror(errno);
  const int on = 1;
  setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on));
  if (bind(listener, address.ai_addr, address.ai_addrlen) != 0 ||
      listen(listener, SOMAXCONN) != 0) {
    const int error = errno;
    close(listener);
    return strerror(error);
  }
  *out = listener;
  return "";
}

}  // namespace

std::string ListenAddress::ToString() const {
  const bool v6 = host.find(':') != std::string::npos;
  return (v6 ? "[" + host + "]" : host) + ":" + std::to_string(port);
}

std::string ParseListenAddress(const std::string& text, ListenAddress* out) {
  const std::string form = "\"" + text + "\" is not HOST:PORT, such as 127.0.0.1:7077";
  const size_t colon = text.rfind(':');
  if (colon == std::string::npos || colon == 0) return form;
  std::string host = text.substr(0, colon);
  const std::string port = text.substr(colon + 1);
  if (host.front() == '[' && host.back() == ']') {
    host = host.substr(1, host.size() - 2);
  } else if (host.find(':') != std::string::npos) {
    return "an IPv6 address needs brackets: [" + host + "]:" + port;
  }
  const bool digits =
      !port.empty() && port.size() <= 5 &&
      std::all_of(port.begin(), port.end(), [](unsigned char c) { return std::isdigit(c) != 0; });
  if (host.empty() || !digits || std::stoi(port) > 65535) return form;
  *out = {host, std::stoi(port)};
  return "";
}

std::string CheckLoopback(const ListenAddress& address, bool* loopback) {
  AddressList list(nullptr, &freeaddrinfo);
  if (std::string fault = LookUp(address, &list); !fault.empty()) return fault;
  *loopback = true;
  for (const addrinfo* one = list.get(); one != nullptr; one = one->ai_next) {
    *loopback = *loopback && IsLoopback(one->ai_addr);
  }
  return "";
}

std::string ProbeListen(const ListenAddress& address) {
  AddressList list(nullptr, &freeaddrinfo);
  if (std::string fault = LookUp(address, &list); !fault.empty()) return fault;
  for (const addrinfo* one = list.get(); one != nullptr; one = one->ai_next) {
    int probe = -1;
    if (std::string fault = ListenOn(*one, &probe); !fault.empty()) return fault;
    close(probe);
  }
  return "";
}

std::string OpenListener(ListenAddress* address, int* socket) {
  AddressList list(nullptr, &freeaddrinfo);
  if (std::string fault = LookUp(*address, &list); !fault.empty()) return fault;
  if (std::string fault = ListenOn(*list, socket); !fault.empty()) return fault;
  sockaddr_storage chosen{};
  socklen_t size = sizeof(chosen);
  if (getsockname(*socket, reinterpret_cast<sockaddr*>(&chosen), &size) != 0) {
    const int error = errno;
    close(*socket);
    return strerror(error);
  }
  // The port is at the same place of both families.
  address->port = ntohs(reinterpret_cast<const sockaddr_in*>(&chosen)->sin_port);
  return "";
}

}  // namespace swinfleet::coordinator
