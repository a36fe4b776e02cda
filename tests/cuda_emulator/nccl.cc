// The part of NCCL that the backend uses, between processes of one machine: a message is a file in
// a folder that goes by the group's id, so that nothing of it touches MPI. What a process sends is
// kept until the other one takes it; who waits for a process that is gone waits on, until it
// aborts.
//
// Held against nccl.h: counts, types, pointers, buffers that overlap other than in place, one
// stream a group of processes, calls while an earlier one has not got through (all calls are of
// communicators that don't block, and often say that they go on), calls after Abort, messages
// outside of a group of calls. Ranks that call different things, or of different sizes, end with an
// error that says both. What is not here is refused.
#include <nccl.h>
#include <signal.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <functional>
#include <map>
#include <memory>
#include <set>
#include <sstream>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "tests/cuda_emulator/internal.h"

namespace swinfleet::emulator {
namespace {

namespace fs = std::filesystem;

// What a call is, as its partners must have called it.
struct Header {
  char call[24] = "";
  ncclDataType_t type = ncclUint8;
  uint64_t count = 0;

  std::string ToText() const {
    return std::string(call) + " of " + std::to_string(count) + " elements of type " +
           std::to_string(type);
  }
};

// The files of a group, as one rank sees them. A file has its name when it is whole.
class Mailbox {
 public:
  Mailbox(const ncclUniqueId& id, int rank)
      : folder_(fs::temp_directory_path() / ("swinfleet-nccl-" + Hex(id))), rank_(rank) {
    fs::create_directories(folder_);
  }

  void Write(const std::string& name, const std::string& bytes) const {
    const fs::path whole = folder_ / name, part = folder_ / (name + ".part");
    std::ofstream(part, std::ios::binary) << bytes;
    fs::rename(part, whole);
  }
  bool Has(const std::string& name) const { return fs::exists(folder_ / name); }
  std::string Read(const std::string& name) const {
    std::ifstream file(folder_ / name, std::ios::binary);
    return {std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>()};
  }
  std::string Take(const std::string& name) const {
    std::string bytes = Read(name);
    fs::remove(folder_ / name);
    return bytes;
  }
  // Of all ranks, or an empty list as long as one has not written its own.
  std::vector<std::string> OfAllRanks(const std::string& prefix, int ranks) const {
    std::vector<std::string> texts;
    for (int r = 0; r < ranks; ++r) {
      if (!Has(prefix + std::to_string(r))) return {};
      texts.push_back(Read(prefix + std::to_string(r)));
    }
    return texts;
  }
  // By all who leave in order; the last one is right.
  void RemoveFolder() const {
    std::error_code ignored;
    fs::remove_all(folder_, ignored);
  }
  int rank() const { return rank_; }

 private:
  static std::string Hex(const ncclUniqueId& id) {
    constexpr char kDigits[] = "0123456789abcdef";
    std::string text;
    for (const char c : std::string(id.internal, 16)) {
      text += {kDigits[static_cast<unsigned char>(c) >> 4], kDigits[c & 15]};
    }
    return text;
  }

  const fs::path folder_;
  const int rank_;
};

// Device memory that a call sends to a rank or gets from it.
struct Part {
  int peer = 0;
  Header header = {};
  char* place = nullptr;
  size_t bytes = 0;
  // The how-manieth between the two in this direction.
  uint64_t number = 0;
  // What came; of receives.
  bool here = false;
  std::string data = {};
};

std::string Load(const char* place, size_t bytes) {
  const ArenaAccess access;
  RecordAccess(place, bytes, AccessKind::kRead, {}, __builtin_return_address(0));
  return {place, bytes};
}

void Store(char* place, const std::string& data) {
  const ArenaAccess access;
  RecordAccess(place, data.size(), AccessKind::kWrite, {}, __builtin_return_address(0));
  std::memcpy(place, data.data(), data.size());
}

enum class Phase { kJoining, kReady, kBusy, kLeaving, kLeft };

struct Group {
  Group(const ncclUniqueId& id, int rank, int ranks)
      : mailbox(id, rank), ranks(ranks), sent(ranks), received(ranks) {}

  Mailbox mailbox;
  const int ranks;
  Phase phase = Phase::kJoining;
  // Looks that are taken before a call has got through.
  int looks = 0;
  // Puts on the stream what found no room there, by the thread that has called.
  std::function<void()> enqueue;
  std::thread::id caller;
  bool aborted = false;
  std::vector<pid_t> processes;
  cudaStream_t stream = nullptr;
  std::vector<uint64_t> sent, received;
  int outstanding = 0;
};

// What one call, or one group of calls, puts on the stream.
struct Operation {
  std::shared_ptr<Group> group;
  std::vector<Part> sends, receives;
  // Before anything is received.
  std::function<void()> begin;
  // Given what was received.
  std::function<void(std::vector<Part>& receives)> finish;
  bool begun = false;

  bool Try();
};

std::string NameOf(int from, int to, uint64_t number) {
  return std::to_string(from) + "-" + std::to_string(to) + "-" + std::to_string(number);
}

bool Operation::Try() {
  const int rank = group->mailbox.rank();
  if (group->aborted) {
    --group->outstanding;
    return true;
  }
  if (!begun) {
    begun = true;
    for (const Part& part : sends) {
      std::string message(reinterpret_cast<const char*>(&part.header), sizeof(Header));
      message += Load(part.place, part.bytes);
      group->mailbox.Write(NameOf(rank, part.peer, part.number), message);
    }
    if (begin) begin();
  }
  for (Part& part : receives) {
    const std::string name = NameOf(part.peer, rank, part.number);
    if (part.here) continue;
    if (!group->mailbox.Has(name)) return false;
    const std::string message = group->mailbox.Take(name);
    Header theirs;
    std::memcpy(&theirs, message.data(), sizeof(Header));
    if (theirs.ToText() != part.header.ToText()) {
      Fail("NCCL: rank " + std::to_string(rank) + " has called " + part.header.ToText() +
           ", and rank " + std::to_string(part.peer) + " " + theirs.ToText());
    }
    part.data = message.substr(sizeof(Header));
    part.here = true;
  }
  finish(receives);
  --group->outstanding;
  return true;
}

// ---- Calls ----

// Between GroupStart and GroupEnd.
struct OpenGroup {
  int depth = 0;
  Operation operation;
};

// A thread's, as NCCL's are.
OpenGroup& TheOpenGroup() {
  thread_local OpenGroup open;
  return open;
}

// Those that there are, and those that there were.
std::map<ncclComm_t, std::shared_ptr<Group>>& Groups() {
  static auto* groups = new std::map<ncclComm_t, std::shared_ptr<Group>>;
  return *groups;
}

std::shared_ptr<Group> GroupOf(ncclComm_t comm) {
  const auto found = Groups().find(comm);
  if (found == Groups().end()) Fail("NCCL: a communicator that there is not");
  if (found->second->aborted) Fail("NCCL: a call after ncclCommAbort");
  return found->second;
}

size_t SizeOf(ncclDataType_t type) {
  switch (type) {
    case ncclUint8:
      return 1;
    case ncclFloat32:
      return 4;
    default:
      Fail("NCCL: a type that the emulator does not know");
  }
}

// Lets streams go on while the host waits for something else, such as MPI: a GPU would.
void KeepGoing() {
  for (;;) {
    bool went_on = false;
    {
      const Lock lock;
      went_on = HostIsQuiet() && RunSome();
    }
    if (!went_on) std::this_thread::sleep_for(std::chrono::milliseconds(1));
  }
}

ncclResult_t Post(Operation operation) {
  Group& group = *operation.group;
  for (Part& part : operation.sends) part.number = ++group.sent[part.peer];
  for (Part& part : operation.receives) part.number = ++group.received[part.peer];
  ++group.outstanding;
  const auto shared = std::make_shared<Operation>(std::move(operation));
  const auto enqueue = [shared] {
    EnqueueWaiting(shared->group->stream, [shared] { return shared->Try(); });
  };
  // Communicators that don't block don't wait for room either.
  const bool has_room = HasRoom(group.stream);
  if (has_room) enqueue();
  if (has_room && Order()() % 2 == 0) return ncclSuccess;
  if (!has_room) group.enqueue = enqueue;
  group.caller = std::this_thread::get_id();
  group.phase = Phase::kBusy;
  group.looks = 1 + static_cast<int>(Order()() % 3);
  return ncclInProgress;
}

struct Call {
  const char* name;
  size_t count;
  ncclDataType_t type;
  ncclComm_t comm;
  cudaStream_t stream;

  size_t bytes() const { return count * SizeOf(type); }
  Header MakeHeader() const {
    Header header = {.type = type, .count = count};
    std::strncpy(header.call, name, sizeof(header.call) - 1);
    return header;
  }
};

// Checks what calls have in common; their group.
std::shared_ptr<Group> Check(const Call& call) {
  std::shared_ptr<Group> group = GroupOf(call.comm);
  if (group->phase != Phase::kReady) {
    Fail(std::string("NCCL: ") + call.name + " while an earlier call has not got through");
  }
  if (group->stream == nullptr) group->stream = call.stream;
  if (group->stream != call.stream) Fail("NCCL: a second stream");
  if (!HasGreatestPriority(call.stream)) Fail("NCCL: a stream whose messages queue behind kernels");
  return group;
}

// Buffers are the same memory, in place, or have nothing in common.
void CheckOverlap(const char* send, size_t send_bytes, const char* receive, size_t receive_bytes,
                  bool in_place) {
  const bool apart = send + send_bytes <= receive || receive + receive_bytes <= send;
  if (!apart && !in_place) Fail("NCCL: buffers that overlap other than in place");
  CheckAllocated(send, send_bytes, "a buffer to send");
  CheckAllocated(receive, receive_bytes, "a buffer to receive");
}

// Sums the ranks' numbers in an order that is not the communicator's.
std::string Sum(const std::vector<std::string>& of_ranks) {
  std::vector<float> sum(of_ranks[0].size() / sizeof(float)), values(sum.size());
  for (size_t r = of_ranks.size(); r-- > 0;) {
    std::memcpy(values.data(), of_ranks[r].data(), of_ranks[r].size());
    for (size_t i = 0; i < sum.size(); ++i) {
      sum[i] = r + 1 == of_ranks.size() ? values[i] : sum[i] + values[i];
    }
  }
  return {reinterpret_cast<const char*>(sum.data()), sum.size() * sizeof(float)};
}

// A collective in which each rank sends `sent(peer)` to each other rank, and ends with what all
// have sent to it, its own included.
ncclResult_t Collective(const Call& call, const std::function<Part(int peer)>& sent,
                        const std::function<void(const std::vector<std::string>&)>& finish) {
  if (TheOpenGroup().depth > 0) Fail("NCCL: the emulator knows no groups of collectives");
  Operation operation;
  operation.group = Check(call);
  const int rank = operation.group->mailbox.rank(), ranks = operation.group->ranks;
  for (int r = 0; r < ranks; ++r) {
    if (r == rank) continue;
    Part part = sent(r);
    part.peer = r;
    part.header = call.MakeHeader();
    operation.sends.push_back(part);
    operation.receives.push_back({.peer = r, .header = part.header});
  }
  const auto own = std::make_shared<std::string>();
  operation.begin = [own, part = sent(rank)] { *own = Load(part.place, part.bytes); };
  operation.finish = [own, rank, finish](std::vector<Part>& receives) {
    std::vector<std::string> all;
    for (const Part& part : receives) all.push_back(part.data);
    all.insert(all.begin() + rank, *own);
    finish(all);
  };
  return Post(std::move(operation));
}

ncclResult_t Message(const Call& call, const void* place, int peer, bool send) {
  const std::shared_ptr<Group> group = Check(call);
  if (peer < 0 || peer >= group->ranks) return ncclInvalidArgument;
  if (peer == group->mailbox.rank()) Fail("NCCL: a message to oneself");
  if (place == nullptr && call.count > 0) return ncclInvalidArgument;
  CheckAllocated(place, call.bytes(), "a message's buffer");
  OpenGroup& open = TheOpenGroup();
  if (open.depth == 0) Fail("NCCL: a message outside of a group may wait for ever");
  if (open.operation.group != nullptr && open.operation.group != group) {
    Fail("NCCL: the emulator knows no groups of several communicators");
  }
  open.operation.group = group;
  auto& parts = send ? open.operation.sends : open.operation.receives;
  parts.push_back({.peer = peer,
                   .header = call.MakeHeader(),
                   .place = static_cast<char*>(const_cast<void*>(place)),
                   .bytes = call.bytes()});
  return ncclSuccess;
}

bool IsGone(pid_t process) {
  std::ifstream file("/proc/" + std::to_string(process) + "/stat");
  std::string text;
  if (!std::getline(file, text)) return true;
  return text.substr(text.rfind(')') + 1).starts_with(" Z");
}

// Once all have come.
ncclResult_t Join(Group* group) {
  const std::vector<std::string> all = group->mailbox.OfAllRanks("rank-", group->ranks);
  if (all.empty()) return ncclInProgress;
  std::set<int> devices;
  for (const std::string& text : all) {
    std::istringstream words(text);
    pid_t process = 0;
    int ranks = 0, device = 0;
    words >> process >> ranks >> device;
    if (ranks != group->ranks) return ncclInvalidArgument;
    // The real one refuses a GPU that two ranks have.
    if (!devices.insert(device).second) return ncclInvalidUsage;
    group->processes.push_back(process);
  }
  group->phase = Phase::kReady;
  return ncclSuccess;
}

ncclResult_t Look(Group* group) {
  switch (group->phase) {
    case Phase::kJoining:
      return Join(group);
    case Phase::kBusy:
      if (group->enqueue) {
        if (group->caller != std::this_thread::get_id()) return ncclInProgress;
        RunSome();
        if (!HasRoom(group->stream)) return ncclInProgress;
        std::exchange(group->enqueue, nullptr)();
      }
      if (--group->looks > 0) return ncclInProgress;
      group->phase = Phase::kReady;
      return ncclSuccess;
    case Phase::kLeaving:
      if (group->outstanding > 0) return ncclInProgress;
      if (group->mailbox.OfAllRanks("left-", group->ranks).empty()) return ncclInProgress;
      group->phase = Phase::kLeft;
      return ncclSuccess;
    case Phase::kLeft:
    case Phase::kReady:
      break;
  }
  const bool gone = std::any_of(group->processes.begin(), group->processes.end(), IsGone);
  return gone && group->outstanding > 0 ? ncclRemoteError : ncclSuccess;
}

}  // namespace

void CheckNoOpenGroup() {
  if (TheOpenGroup().depth > 0) Fail("NCCL: streams are waited for while a group of calls is open");
}

}  // namespace swinfleet::emulator

// What NCCL leaves undefined.
struct ncclComm {};

namespace emulator = swinfleet::emulator;
using emulator::Call;
using emulator::Lock;
using emulator::Part;
using emulator::Phase;

ncclResult_t ncclGetVersion(int* version) {
  *version = NCCL_VERSION_CODE;
  return ncclSuccess;
}

ncclResult_t ncclGetUniqueId(ncclUniqueId* id) {
  std::ifstream("/dev/urandom", std::ios::binary).read(id->internal, sizeof(id->internal));
  return ncclSuccess;
}

ncclResult_t ncclCommInitRankConfig(ncclComm_t* comm, int ranks, ncclUniqueId id, int rank,
                                    ncclConfig_t* config) {
  const Lock lock;
  const ncclConfig_t standard = NCCL_CONFIG_INITIALIZER;
  if (config == nullptr || config->magic != standard.magic) return ncclInvalidArgument;
  if (config->blocking != 0) emulator::Fail("NCCL: a communicator that blocks");
  if (ranks < 1 || rank < 0 || rank >= ranks) return ncclInvalidArgument;
  if (emulator::CurrentDevice() < 0) emulator::Fail("NCCL: before a GPU was chosen");
  *comm = new ncclComm;
  const auto group = std::make_shared<emulator::Group>(id, rank, ranks);
  emulator::Groups()[*comm] = group;
  group->mailbox.Write("rank-" + std::to_string(rank),
                       std::to_string(getpid()) + " " + std::to_string(ranks) + " " +
                           std::to_string(emulator::CurrentDevice()));
  [[maybe_unused]] static const bool started = [] {
    std::thread(emulator::KeepGoing).detach();
    return true;
  }();
  return ncclInProgress;
}

ncclResult_t ncclCommGetAsyncError(ncclComm_t comm, ncclResult_t* result) {
  const Lock lock;
  *result = emulator::Look(emulator::GroupOf(comm).get());
  return ncclSuccess;
}

ncclResult_t ncclCommFinalize(ncclComm_t comm) {
  const Lock lock;
  emulator::CheckNoOpenGroup();
  const auto group = emulator::GroupOf(comm);
  if (group->phase != Phase::kReady) return ncclInvalidUsage;
  group->phase = Phase::kLeaving;
  group->mailbox.Write("left-" + std::to_string(group->mailbox.rank()), "");
  return ncclInProgress;
}

ncclResult_t ncclCommDestroy(ncclComm_t comm) {
  const Lock lock;
  const auto group = emulator::GroupOf(comm);
  if (group->phase != Phase::kLeft) emulator::Fail("NCCL: ncclCommDestroy before ncclCommFinalize");
  group->aborted = true;
  // When all have seen that all have left.
  group->mailbox.Write("gone-" + std::to_string(group->mailbox.rank()), "");
  if (!group->mailbox.OfAllRanks("gone-", group->ranks).empty()) group->mailbox.RemoveFolder();
  return ncclSuccess;
}

ncclResult_t ncclCommAbort(ncclComm_t comm) {
  const Lock lock;
  emulator::GroupOf(comm)->aborted = true;
  return ncclSuccess;
}

const char* ncclGetErrorString(ncclResult_t result) {
  switch (result) {
    case ncclSuccess:
      return "no error";
    case ncclRemoteError:
      return "remote process exited or there was a network error";
    case ncclInvalidArgument:
      return "invalid argument";
    case ncclInvalidUsage:
      return "invalid usage";
    case ncclInProgress:
      return "NCCL operation in progress";
    default:
      return "unknown result code";
  }
}

const char* ncclGetLastError(ncclComm_t) { return "emulated"; }

ncclResult_t ncclGroupStart() {
  const Lock lock;
  if (++emulator::TheOpenGroup().depth > 1) emulator::Fail("NCCL: a group within a group");
  return ncclSuccess;
}

ncclResult_t ncclGroupEnd() {
  const Lock lock;
  emulator::OpenGroup& open = emulator::TheOpenGroup();
  if (open.depth == 0) return ncclInvalidUsage;
  open.depth = 0;
  emulator::Operation operation = std::move(open.operation);
  open.operation = {};
  if (operation.group == nullptr) return ncclSuccess;
  operation.finish = [](std::vector<Part>& receives) {
    for (const Part& part : receives) emulator::Store(part.place, part.data);
  };
  return emulator::Post(std::move(operation));
}

ncclResult_t ncclSend(const void* buffer, size_t count, ncclDataType_t type, int peer,
                      ncclComm_t comm, cudaStream_t stream) {
  const Lock lock;
  return emulator::Message({"a message", count, type, comm, stream}, buffer, peer, true);
}

ncclResult_t ncclRecv(void* buffer, size_t count, ncclDataType_t type, int peer, ncclComm_t comm,
                      cudaStream_t stream) {
  const Lock lock;
  return emulator::Message({"a message", count, type, comm, stream}, buffer, peer, false);
}

ncclResult_t ncclAllReduce(const void* send, void* receive, size_t count, ncclDataType_t type,
                           ncclRedOp_t op, ncclComm_t comm, cudaStream_t stream) {
  const Lock lock;
  if (send == nullptr || receive == nullptr) return ncclInvalidArgument;
  if (type != ncclFloat32 || op != ncclSum) emulator::Fail("NCCL: other sums than of float32");
  const Call call = {"an all-reduce", count, type, comm, stream};
  auto* from = static_cast<char*>(const_cast<void*>(send));
  auto* to = static_cast<char*>(receive);
  emulator::CheckOverlap(from, call.bytes(), to, call.bytes(), from == to);
  const auto sent = [=](int) { return Part{.place = from, .bytes = call.bytes()}; };
  return emulator::Collective(call, sent, [to](const std::vector<std::string>& all) {
    emulator::Store(to, emulator::Sum(all));
  });
}

ncclResult_t ncclReduceScatter(const void* send, void* receive, size_t count, ncclDataType_t type,
                               ncclRedOp_t op, ncclComm_t comm, cudaStream_t stream) {
  const Lock lock;
  if (send == nullptr || receive == nullptr) return ncclInvalidArgument;
  if (type != ncclFloat32 || op != ncclSum) emulator::Fail("NCCL: other sums than of float32");
  const Call call = {"a reduce-scatter", count, type, comm, stream};
  const auto group = emulator::GroupOf(comm);
  auto* from = static_cast<char*>(const_cast<void*>(send));
  auto* to = static_cast<char*>(receive);
  emulator::CheckOverlap(from, group->ranks * call.bytes(), to, call.bytes(),
                         to == from + group->mailbox.rank() * call.bytes());
  const auto sent = [=](int peer) {
    return Part{.place = from + peer * call.bytes(), .bytes = call.bytes()};
  };
  return emulator::Collective(call, sent, [to](const std::vector<std::string>& all) {
    emulator::Store(to, emulator::Sum(all));
  });
}

ncclResult_t ncclAllGather(const void* send, void* receive, size_t count, ncclDataType_t type,
                           ncclComm_t comm, cudaStream_t stream) {
  const Lock lock;
  if (send == nullptr || receive == nullptr) return ncclInvalidArgument;
  const Call call = {"an all-gather", count, type, comm, stream};
  const auto group = emulator::GroupOf(comm);
  auto* from = static_cast<char*>(const_cast<void*>(send));
  auto* to = static_cast<char*>(receive);
  emulator::CheckOverlap(from, call.bytes(), to, group->ranks * call.bytes(),
                         from == to + group->mailbox.rank() * call.bytes());
  const auto sent = [=](int) { return Part{.place = from, .bytes = call.bytes()}; };
  return emulator::Collective(call, sent, [to, from, call](const std::vector<std::string>& all) {
    for (size_t r = 0; r < all.size(); ++r) {
      char* place = to + r * call.bytes();
      // What is in its place already is only read.
      if (place != from) emulator::Store(place, all[r]);
    }
  });
}
