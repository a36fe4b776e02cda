// Which CPUs of a host belong to which of the ranks that share them.
#ifndef SWINFLEET_DISTRIBUTED_CPU_DIVISION_H_
#define SWINFLEET_DISTRIBUTED_CPU_DIVISION_H_

#include <string>
#include <vector>

#include "distributed/communicator.h"
#include "kernels/thread_placement.h"

namespace swinfleet {

struct LogicalCpu {
  int cpu = 0;
  // The same for hyper-threads of one core, and for no others of the host.
  int core = 0;
  // NUMA node.
  int node = 0;
};

// Part `part` of `parts` of the CPUs: a list a core, with those of its hyper-threads that are among
// `cpus`. Each part has at least floor(cores / parts) cores, contiguous in the order of nodes and
// CPUs; parts that can lie in a node, do. With fewer cores than parts hyper-threads are divided as
// if they were cores. Empty when there are fewer CPUs than parts.
std::vector<CpuList> DivideCpus(const std::vector<LogicalCpu>& cpus, int parts, int part);

// What a rank may use.
struct CpuShare {
  // Allowed to this rank, by the launcher or the system.
  CpuList allowed;
  // Ranks to which the same CPUs are allowed, this one among them.
  int sharers = 1;
  // This rank's number among them.
  int index = 0;
  // Its part, as DivideCpus has it.
  std::vector<CpuList> cores;
  // CPUs' worth of time that its control group (container) leaves to it; 0: no limit.
  double quota = 0;

  // One a core, and not more than the quota pays for.
  int DefaultThreads() const;
};

// What the rank says to others: where it is, and what it may use.
struct RankCpus {
  // Differs between hosts.
  std::string host;
  // Differs between control groups with limits of their own.
  std::string group;
  // CPUs' worth of time of the group; 0: no limit.
  double quota = 0;
  CpuList allowed;

  // Of this process. Throws Error when the system doesn't say.
  static RankCpus Here();
  std::string ToText() const;
  static RankCpus FromText(const std::string& text);
};

// The share of `rank`; `topology` has (at least) its allowed CPUs. A launcher that has bound the
// ranks apart has divided the CPUs already: each keeps what it has.
CpuShare ShareOf(const std::vector<RankCpus>& ranks, int rank,
                 const std::vector<LogicalCpu>& topology);

// Cores and nodes of `cpus`, read from `root` (/sys/devices/system/cpu). What it doesn't tell is
// taken for a core of its own on node 0.
std::vector<LogicalCpu> ReadTopology(const std::string& root, const CpuList& cpus);

// Collective: this rank's share among the communicator's ranks, each of which says where it is.
CpuShare ShareCpus(const RankCpus& own, Communicator* communicator);

// Where `threads` compute threads and the others go within a share. As many as cores: a core each,
// and the others may run on all CPUs that are allowed, since none is left over. Fewer: all run
// anywhere in the part. More: the compute threads run anywhere in the part.
ThreadCpus PlaceThreads(const CpuShare& share, int threads);

}  // namespace swinfleet

#endif  // SWINFLEET_DISTRIBUTED_CPU_DIVISION_H_
