// The fields that completions and chat completions share.
#pragma once

#include <span>

#include "api_request.hpp"
#include "dsv3/core/isa.hpp"
#include "fields.hpp"

namespace serve::inline DSV3_ISA {

/// Likeliest tokens that may be asked for with each token: OpenAI's limit for chats; completions have the same here.
inline constexpr std::int64_t most_top_log_probabilities = 20;

/// The body as JSON. Throws: ApiError if it is not UTF-8, not valid JSON, or no object.
Json parse_body(const std::string& body);

/// Checks the model's name and reads sampling, stop strings, n, stream and the like into `request` and `model`.
void read_common(const Service& service, const Fields& fields, ApiRequest& request, dsv3::Request& model);

/// Sets the prompt and how long the answer may be. `wanted`: 0 for what the context leaves.
void set_prompt(const Service& service, dsv3::Request& model, std::vector<int> prompt, std::int64_t wanted, const char* prompt_field);

/// Lets `model` write only what the grammar allows, in tokens of `texts`; with `after`, from behind that token on.
void constrain(const Service& service, dsv3::Request& model, const std::string& gbnf, const std::string& field,
               const std::shared_ptr<const dsv3::grammar::TokenTexts>& texts, std::optional<int> after = {});

/// grammar, or response_format as a grammar in GBNF; empty if any text will do. `body` is read once more, as the order of properties
/// counts.
std::string response_grammar(const Fields& fields, const std::string& body);
/// Which of the two it was.
const char* grammar_field(const Fields& fields);

}  // namespace serve::inline DSV3_ISA
