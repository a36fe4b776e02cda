// Debian's glog is built with custom prefixes, but its header hides them unless asked.
#define GLOG_CUSTOM_PREFIX_SUPPORT
#include "worker/logging.h"

#include <glog/logging.h>

#include <atomic>
#include <iomanip>
#include <ostream>

namespace swinfleet {
namespace {

std::atomic<int> logged_rank = -1;

// "I20240131 15:04:05.123456 rank 3 file.cc:12]".
void WritePrefix(std::ostream& out, const google::LogMessageInfo& info, void*) {
  const google::LogMessageTime& time = info.time;
  const auto two = [&out](int value) { out << std::setw(2) << value; };
  out << info.severity[0] << std::setfill('0') << 1900 + time.year();
  two(1 + time.month());
  two(time.day());
  out << ' ';
  two(time.hour());
  out << ':';
  two(time.min());
  out << ':';
  two(time.sec());
  out << '.' << std::setw(6) << time.usec() << std::setfill(' ');
  const int rank = logged_rank;
  if (rank >= 0) out << " rank " << rank;
  out << ' ' << info.filename << ':' << info.line_number << ']';
}

}  // namespace

void InitLogging(const char* program) {
  FLAGS_logtostderr = true;
  google::InitGoogleLogging(program, &WritePrefix);
}

void SetLoggedRank(int rank) { logged_rank = rank; }

}  // namespace swinfleet
