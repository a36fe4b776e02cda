// Who may do what, with a clock of the test's.
#include "coordinator/access.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <set>
#include <string>
#include <vector>

namespace swinfleet::coordinator {
namespace {

using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::Not;

Token MakeToken(const std::string& name, Role role, const std::string& text) {
  Token token;
  token.name = name;
  token.role = role;
  token.hash = HashToken(text);
  return token;
}

class Access : public ::testing::Test {
 protected:
  AccessControl Make(bool open_without_tokens = true) {
    return AccessControl([this] { return now_; }, open_without_tokens);
  }
  std::vector<Token> Tokens() const {
    return {MakeToken("vera", Role::kViewer, "v"), MakeToken("sam", Role::kSubmitter, "s"),
            MakeToken("ada", Role::kAdmin, "a"), MakeToken("lab", Role::kFleet, "f")};
  }
  double now_ = 1000;
};

TEST_F(Access, ATokenSaysWhoAndWhat) {
  AccessControl access = Make();
  access.SetTokens(Tokens());
  const Identity sam = access.Authenticate("s", true);
  EXPECT_TRUE(sam.ok()) << sam.refusal;
  EXPECT_EQ(sam.name, "sam");
  EXPECT_EQ(sam.role, Role::kSubmitter);
  EXPECT_FALSE(sam.open);
  EXPECT_EQ(access.Authenticate("f", true).role, Role::kFleet);
  EXPECT_FALSE(access.open());
}

TEST_F(Access, WrongMissingAndMalformedTokensAreRefused) {
  AccessControl access = Make();
  access.SetTokens(Tokens());
  EXPECT_THAT(access.Authenticate("", true).refusal, HasSubstr("no token was sent"));
  for (const std::string& wrong :
       {std::string("x"), std::string("S"), std::string("s "), std::string("ss"),
        std::string("s\0", 2), std::string(100000, 's'),
        // Who reads the store can't log in with what is there.
        std::string(reinterpret_cast<const char*>(HashToken("a").data()), 32)}) {
    const Identity identity = access.Authenticate(wrong, true);
    EXPECT_THAT(identity.refusal, HasSubstr("not known")) << wrong.size();
    EXPECT_THAT(identity.refusal, Not(HasSubstr("ss")));
    EXPECT_EQ(identity.name, "");
  }
}

TEST_F(Access, TokensExpireAtTheirTime) {
  AccessControl access = Make();
  std::vector<Token> tokens = Tokens();
  tokens[1].expires_at = 2000;
  access.SetTokens(tokens);
  now_ = 1999.9;
  const Identity before = access.Authenticate("s", true);
  EXPECT_TRUE(before.ok());
  EXPECT_THAT(access.Lapsed(before), IsEmpty());
  now_ = 2000;
  const Identity after = access.Authenticate("s", true);
  EXPECT_THAT(after.refusal, HasSubstr("the token of sam has expired"));
  // For the audit log.
  EXPECT_EQ(after.name, "sam");
  EXPECT_THAT(access.Lapsed(before), HasSubstr("expired"));
  EXPECT_FALSE(MayView(after));
  // A clock that jumps back makes it valid again, no longer than it was meant to be.
  now_ = 1500;
  EXPECT_TRUE(access.Authenticate("s", true).ok());
}

TEST_F(Access, RevokedTokensAreOfNoUse) {
  AccessControl access = Make();
  std::vector<Token> tokens = Tokens();
  access.SetTokens(tokens);
  const Identity sam = access.Authenticate("s", true);
  tokens[1].revoked_at = 900;
  // The same name may have a new token.
  tokens.push_back(MakeToken("sam", Role::kViewer, "new"));
  access.SetTokens(tokens);
  EXPECT_THAT(access.Authenticate("s", true).refusal, HasSubstr("revoked"));
  EXPECT_THAT(access.Lapsed(sam), HasSubstr("revoked"));
  const Identity again = access.Authenticate("new", true);
  EXPECT_TRUE(again.ok());
  EXPECT_THAT(access.Lapsed(again), IsEmpty());
  access.SetTokens({tokens[0]});
  EXPECT_THAT(access.Lapsed(sam), HasSubstr("gone"));
}

TEST_F(Access, ATokenInPlainTextFromElsewhereIsRefused) {
  AccessControl access = Make();
  access.SetTokens(Tokens());
  EXPECT_THAT(access.Authenticate("a", false).refusal, HasSubstr("plain text"));
  EXPECT_THAT(access.Authenticate("a", false).refusal, HasSubstr("revoke it"));
}

TEST_F(Access, WithoutTokensACoordinatorIsOpenOrClosed) {
  AccessControl open = Make(true);
  EXPECT_TRUE(open.open());
  const Identity anybody = open.Authenticate("", false);
  EXPECT_TRUE(anybody.ok());
  EXPECT_TRUE(anybody.open);
  for (const auto may : {&MayView, &MaySubmit, &MayFence, &MayServe}) EXPECT_TRUE(may(anybody));
  EXPECT_TRUE(MayCancel(anybody, "somebody"));
  EXPECT_EQ(Owner(anybody, "claimed"), "claimed");
  EXPECT_THAT(open.Lapsed(anybody), IsEmpty());

  AccessControl closed = Make(false);
  EXPECT_FALSE(closed.open());
  EXPECT_THAT(closed.Authenticate("", true).refusal, HasSubstr("token add"));
  EXPECT_THAT(closed.Authenticate("a", true).refusal, HasSubstr("no tokens yet"));
}

TEST_F(Access, TheFirstTokenClosesAnOpenCoordinatorForGood) {
  AccessControl access = Make(true);
  const Identity anybody = access.Authenticate("", true);
  std::vector<Token> tokens = {MakeToken("ada", Role::kAdmin, "a")};
  access.SetTokens(tokens);
  EXPECT_FALSE(access.Authenticate("", true).ok());
  EXPECT_THAT(access.Lapsed(anybody), HasSubstr("now asks for tokens"));
  // Nor does it open when the last valid token is gone.
  tokens[0].revoked_at = 900;
  access.SetTokens(tokens);
  EXPECT_FALSE(access.open());
  EXPECT_FALSE(access.Authenticate("", true).ok());
  EXPECT_FALSE(access.Authenticate("a", true).ok());
}

TEST_F(Access, EachRoleMayDoItsOwn) {
  AccessControl access = Make();
  access.SetTokens(Tokens());
  struct Row {
    const char* token;
    bool view, submit, cancel_own, cancel_other, fence, serve;
  };
  for (const Row& row : {Row{"v", true, false, false, false, false, false},
                         Row{"s", true, true, true, false, false, false},
                         Row{"a", true, true, true, true, true, false},
                         Row{"f", false, false, false, false, false, true},
                         Row{"none", false, false, false, false, false, false}}) {
    const Identity identity = access.Authenticate(row.token, true);
    EXPECT_EQ(MayView(identity), row.view) << row.token;
    EXPECT_EQ(MaySubmit(identity), row.submit) << row.token;
    EXPECT_EQ(MayCancel(identity, identity.name), row.cancel_own) << row.token;
    EXPECT_EQ(MayCancel(identity, "other"), row.cancel_other) << row.token;
    EXPECT_EQ(MayFence(identity), row.fence) << row.token;
    EXPECT_EQ(MayServe(identity), row.serve) << row.token;
  }
}

TEST_F(Access, JobsBelongToTheTokensNameWhateverTheClientSays) {
  AccessControl access = Make();
  access.SetTokens(Tokens());
  const Identity sam = access.Authenticate("s", true);
  EXPECT_EQ(Owner(sam, "ada"), "sam");
  // Jobs of before there were tokens are of whom their clients said.
  EXPECT_TRUE(MayCancel(sam, "sam"));
  EXPECT_FALSE(MayCancel(sam, ""));
  EXPECT_EQ(Forbidden(sam, "fence fleets", Role::kAdmin),
            "sam (submitter) may not fence fleets; that takes a token with the role admin");
}

TEST_F(Access, NewTokensAre256RandomBits) {
  std::set<std::string> seen;
  for (int i = 0; i < 1000; ++i) {
    const std::string text = NewTokenText();
    ASSERT_EQ(text.size(), 10u + 64u);
    EXPECT_EQ(text.substr(0, 10), "swinfleet_");
    EXPECT_EQ(text.find_first_not_of("0123456789abcdef", 10), std::string::npos);
    seen.insert(text);
  }
  EXPECT_EQ(seen.size(), 1000u);
  // The example of FIPS 180.
  const TokenHash hash = HashToken("abc");
  EXPECT_EQ(hash[0], 0xba);
  EXPECT_EQ(hash[1], 0x78);
  EXPECT_EQ(hash[31], 0xad);
}

TEST_F(Access, RolesHaveNames) {
  for (const Role role : {Role::kViewer, Role::kSubmitter, Role::kAdmin, Role::kFleet}) {
    EXPECT_EQ(ParseRole(RoleName(role)), role);
  }
  EXPECT_FALSE(ParseRole("root").has_value());
  EXPECT_FALSE(ParseRole("Admin").has_value());
}

}  // namespace
}  // namespace swinfleet::coordinator
