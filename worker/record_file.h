// A file that grows by whole records, whatever happens to the disk.
#ifndef SWINFLEET_WORKER_RECORD_FILE_H_
#define SWINFLEET_WORKER_RECORD_FILE_H_

#include <cstdint>
#include <string>
#include <string_view>

namespace swinfleet {

// A file that can't be written is warned of and ends nothing: what found no room is written later.
// Only a crash of the process in the midst of a write may leave half a record, at the end.
class RecordFile {
 public:
  // `what` for messages: "the metrics file". The file, with its folder, is made at once and emptied
  // if it exists.
  RecordFile(std::string what, std::string path);
  ~RecordFile();
  RecordFile(const RecordFile&) = delete;
  RecordFile& operator=(const RecordFile&) = delete;

  // A record, for the next Flush; many of them are written without waiting for it.
  void Add(std::string_view record);
  void Flush();

 private:
  bool Open();
  void Fail(int code);

  const std::string what_;
  const std::string path_;
  int fd_ = -1;
  // The length of the file, all of it whole records.
  int64_t written_ = 0;
  // Records that are not in the file yet.
  std::string pending_;
  bool failing_ = false;
};

}  // namespace swinfleet

#endif  // SWINFLEET_WORKER_RECORD_FILE_H_
