#include "worker/input_watch.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace swinfleet {
namespace {

using testing::AllOf;
using testing::HasSubstr;
using testing::IsEmpty;
using testing::Not;

TEST(InputWatch, WarnsOnceOfTwoLinesInARow) {
  InputWatch watch;
  DataConfig data;
  data.loader_threads = 2;
  data.prefetch = 8;
  EXPECT_THAT(watch.Note(0.5, 10, 0, data), IsEmpty()) << "the queue has just been filled";
  EXPECT_THAT(watch.Note(0.02, 10, 0, data), IsEmpty());
  EXPECT_THAT(watch.Note(0.2, 10, 0, data), IsEmpty());
  EXPECT_THAT(watch.Note(0.25, 12, 3, data),
              AllOf(HasSubstr("25% of the last 12 steps on rank 3"),
                    HasSubstr("data.loader_threads (now 2)"), Not(HasSubstr("data.prefetch"))));
  EXPECT_THAT(watch.Note(0.25, 12, 3, data), IsEmpty());
  // Around the limit nothing more is said, until it is over.
  EXPECT_THAT(watch.Note(0.07, 10, 0, data), IsEmpty());
  EXPECT_THAT(watch.Note(0.2, 10, 0, data), IsEmpty());
  EXPECT_THAT(watch.Note(0.2, 10, 0, data), IsEmpty());
  EXPECT_THAT(watch.Note(0.04, 10, 0, data), IsEmpty());
  EXPECT_THAT(watch.Note(0.2, 10, 0, data), IsEmpty());
  EXPECT_THAT(watch.Note(0.2, 10, 0, data), HasSubstr("20%"));
}

TEST(InputWatch, AShortQueueIsNamed) {
  InputWatch watch;
  DataConfig data;
  data.loader_threads = 4;
  data.prefetch = 4;
  watch.Note(1, 10, 0, data);
  EXPECT_THAT(watch.Note(1, 10, 0, data), HasSubstr("data.prefetch (now 4) above it"));
}

}  // namespace
}  // namespace swinfleet
