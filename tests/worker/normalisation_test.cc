// Which mean and standard deviation pictures get.
#include "worker/normalisation.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "proto/job_yaml.h"
#include "worker/config_from_proto.h"

namespace swinfleet {
namespace {

using testing::AllOf;
using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;

JobSpec Job(const std::string& data, const std::string& model = "preset: swinv2_tiny_window8_256") {
  JobSpec spec;
  const std::string text =
      "run_dir: /runs/a\nmodel: {" + model + "}\ndata: {path: /data, " + data + "}\n";
  const JobFileErrors errors = ParseJobYaml(text, "job.yaml", &spec);
  EXPECT_TRUE(errors.ok()) << errors.ToString();
  return spec;
}

DataConfig Data(const JobSpec& spec) {
  JobConfig config;
  EXPECT_THAT(ConfigFromProto(spec, 0, &config), IsEmpty());
  return config.data;
}

std::vector<std::string> Problems(const JobSpec& spec) {
  JobConfig config;
  return ConfigFromProto(spec, 0, &config);
}

constexpr char kVideo[] = "preset: swin_tiny_patch244_window877_kinetics400_1k";
constexpr char kGrey[] = "preset: swinv2_tiny_window8_256, in_chans: 1";

TEST(Normalisation, FoldersHaveImageNetsIfNothingIsSaid) {
  for (const JobSpec& spec : {Job("format: imagefolder"), Job("format: frames", kVideo)}) {
    const DataConfig data = Data(spec);
    EXPECT_THAT(data.mean, ElementsAre(0.485, 0.456, 0.406));
    EXPECT_THAT(data.std, ElementsAre(0.229, 0.224, 0.225));
  }
}

TEST(Normalisation, IdxAndWhatIsSaidStay) {
  EXPECT_THAT(Data(Job("format: idx")).mean, IsEmpty());
  EXPECT_THAT(Data(Job("format: idx")).std, IsEmpty());
  EXPECT_THAT(Data(Job("format: idx, std: [0.5, 0.5, 0.5]")).mean, IsEmpty());
  const DataConfig data = Data(Job("format: imagefolder, mean: [0, 0, 0], std: [1, 1, 1]"));
  EXPECT_THAT(data.mean, ElementsAre(0, 0, 0));
  EXPECT_THAT(data.std, ElementsAre(1, 1, 1));
}

TEST(Normalisation, OneChannelHasToSayIt) {
  EXPECT_THAT(Problems(Job("format: imagefolder", kGrey)),
              ElementsAre(AllOf(HasSubstr("data.mean and data.std are missing"),
                                HasSubstr("model.in_chans is 1"), HasSubstr("[0] and [1]"))));
  EXPECT_THAT(Problems(Job("format: imagefolder, mean: 0.5, std: 0.25", kGrey)), IsEmpty());
  EXPECT_THAT(Problems(Job("format: idx", kGrey)), IsEmpty());
}

TEST(Normalisation, FoldersNeedBothOrNeither) {
  EXPECT_THAT(Problems(Job("format: imagefolder, mean: [0, 0, 0]")),
              ElementsAre("data.std is missing, and data.mean is set; set both, or neither for "
                          "ImageNet's"));
  EXPECT_THAT(Problems(Job("format: imagefolder, std: [1]", kGrey)),
              ElementsAre("data.mean is missing, and data.std is set; set both"));
}

// They have begun with a program that let them.
TEST(Normalisation, StartedJobsNeedNotSayIt) {
  for (const JobSpec& spec :
       {Job("format: imagefolder", kGrey), Job("format: imagefolder, mean: [0, 0, 0]")}) {
    JobConfig config;
    EXPECT_THAT(ConfigOfStartedJob(spec, 0, &config), IsEmpty());
    EXPECT_THAT(config.data.std, IsEmpty());
  }
}

TEST(Normalisation, ARunGoesOnWithWhatItsCheckpointRecords) {
  const JobSpec spec = Job("format: imagefolder");
  DataConfig data = Data(spec);
  CheckpointMeta meta;
  meta.job_spec = JobToYaml(spec);
  meta.normalisation = Normalisation{{0.5, 0.5, 0.5}, {0.25, 0.25, 0.25}};
  NormaliseAsTrained(meta, &data);
  EXPECT_THAT(data.mean, ElementsAre(0.5, 0.5, 0.5));
  EXPECT_THAT(data.std, ElementsAre(0.25, 0.25, 0.25));
}

TEST(Normalisation, RunsOfEarlierProgramsGoOnWithWhatTheirJobsSay) {
  for (const auto& [said, mean] : {std::pair("", std::vector<double>()),
                                   {", mean: [0.5, 0.5, 0.5]", std::vector<double>(3, 0.5)}}) {
    const JobSpec spec = Job(std::string("format: imagefolder") + said);
    JobConfig config;
    EXPECT_THAT(ConfigOfStartedJob(spec, 0, &config), IsEmpty());
    CheckpointMeta meta;
    meta.job_spec = JobToYaml(spec);
    NormaliseAsTrained(meta, &config.data);
    EXPECT_EQ(config.data.mean, mean);
    EXPECT_THAT(config.data.std, IsEmpty());
  }
}

TEST(Normalisation, IsSaidInTheLog) {
  DataConfig data;
  EXPECT_EQ(NormalisationText(data),
            "pictures are normalised with mean 0 and standard deviation 1");
  data.mean = {0.485, 0.5};
  data.std = {0.25, 2};
  EXPECT_EQ(NormalisationText(data),
            "pictures are normalised with mean 0.485, 0.5 and standard deviation 0.25, 2");
}

}  // namespace
}  // namespace swinfleet
