// The fields that completions and chat completions share.
#pragma once

#include <span>

#include "api_request.hpp"
#include "dsv3/core/isa.hpp"
#include "fields.hpp"

namespace serve::inline DSV3_ISA {

/// Likeliest tokens that may be asked for with each token: OpenAI's limit for chats; completions have the same here.
inline constexpr std::int64_t max_top_log_probabilities = 20;

/// The body as JSON. Throws: ApiError if it is not UTF-8, not valid JSON, or no object.
Json parse_body(const std::string& body);

/// Throws: ApiError with status 404 for another model's name.
void check_model(const Service& service, const Fields& fields);

/// Checks the model's name and reads sampling, stop strings, n, stream and the like into `request` and `model`.
void read_common(const Service& service, const Fields& fields, ApiRequest& request, dsv3::Request& model);

/// Sets the prompt and how long the answer may be: as long as the context and --max-new allow, but no longer than `wanted`.
/// Throws: ApiError if the context leaves no room for the tokens that are wanted at least (one, unless none is wanted).
void set_prompt(const Service& service, dsv3::Request& model, std::vector<int> prompt, std::optional<std::int64_t> wanted,
                const char* prompt_field);

/// Token ids of an array of integers. Throws: ApiError that names the field `name` if one is none of the model's.
std::vector<int> read_ids(const Service& service, const Fields& fields, const char* name, const Json& list);

/// Lets `model` write only what the grammar allows, in tokens of `texts`; with `after`, from behind that token on.
void constrain(const Service& service, dsv3::Request& model, const std::string& gbnf, const std::string& field,
               const std::shared_ptr<const dsv3::grammar::TokenTexts>& texts, std::optional<int> after = {});

/// What an answer must look like: a grammar in GBNF, empty if any text will do, and the field that says so.
struct Structure {
  std::string gbnf, field;
};

/// Of response_format, grammar, structured_outputs and guided_*, of which a request may have one. `body` is read once more, as the order of
/// properties counts. Throws: ApiError that names the field, and for schemas the place in them.
Structure response_structure(const Fields& fields, const std::string& body);

}  // namespace serve::inline DSV3_ISA
