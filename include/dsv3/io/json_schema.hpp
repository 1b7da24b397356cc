// Floor 6. JSON schemas as grammars in GBNF, for the part of JSON Schema that structured answers use.
//
// Covered: type (also several), object with properties, required and additionalProperties false, array with items, minItems, maxItems,
// string with minLength, maxLength, number, integer, boolean, null, enum, const, anyOf, $ref into $defs or definitions. Keywords that only
// describe are skipped; every other one is refused, as an answer that ignores it might be wrong. Answers are a part of what the schema
// allows: properties in the schema's order and no others, at most one space after ':' and ',', numbers of moderate length.
#pragma once

#include <algorithm>
#include <array>
#include <map>
#include <nlohmann/json.hpp>
#include <set>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "dsv3/core/error.hpp"
#include "dsv3/io/json.hpp"

namespace dsv3::inline DSV3_ISA::io {

namespace detail {

/// Json: nlohmann::json (sorts properties by name) or nlohmann::ordered_json.
template <class Json>
class SchemaGrammar {
 public:
  /// Adds documents that begin with the text `before`.
  void add(std::string_view before, const Json& schema) {
    root_ = &schema;
    references_.clear();
    documents_.push_back((before.empty() ? "" : literal(before) + " ") + visit(schema, "schema", 0));
  }

  std::string text() const { return "root ::= " + any_of(documents_) + "\n" + rules_ + std::string(basics); }

 private:
  static constexpr int max_depth = 64;
  // A string's characters; numbers that end; any value, for schemas that say nothing of it.
  static constexpr std::string_view basics = R"gbnf(ws ::= " "?
char ::= [^"\\\x00-\x1F] | "\\" (["\\/bfnrt] | "u" [0-9a-fA-F]{4})
string ::= "\"" char* "\""
integer ::= "-"? ("0" | [1-9] [0-9]{0,15})
number ::= integer ("." [0-9]{1,16})? ([eE] [\-+]? [0-9]{1,2})?
boolean ::= "true" | "false"
value ::= object | array | string | number | boolean | "null"
member ::= string ":" ws value
object ::= "{" (member ("," ws member)*)? "}"
array ::= "[" (value ("," ws value)*)? "]"
)gbnf";

  /// `text` as a literal of GBNF.
  static std::string literal(std::string_view text) {
    std::string out = "\"";
    for (const char c : text) {
      if (c == '"' || c == '\\') out += '\\';
      c == '\n' ? out += "\\n" : out += c;
    }
    return out + '"';
  }
  static std::string json_literal(const Json& value) { return literal(std::string_view(value.dump())); }

  std::string add_rule(const std::string& body) {
    const std::string name = "r" + std::to_string(next_++);
    rules_ += name + " ::= " + body + "\n";
    return name;
  }

  /// A group of alternatives; parts of `parts` may be none.
  static std::string any_of(const std::vector<std::string>& parts) {
    std::string out = "(";
    for (std::size_t i = 0; i < parts.size(); ++i) out += (i == 0 ? "" : " | ") + parts[i];
    return out + ")";
  }

  /// An expression for what `schema` allows; `where` is its place for messages.
  std::string visit(const Json& schema, const std::string& where, int depth) {
    if (depth > max_depth) fail(where, ": nested deeper than ", max_depth, " levels");
    if (schema.is_boolean() && schema.template get<bool>()) return "value";
    require(schema.is_object(), where, ": expected an object, found ", schema.is_boolean() ? "false" : schema.type_name());
    if (schema.contains("$ref")) {
      allow(schema, where, {"$ref", "$defs", "definitions"});
      return reference(schema["$ref"], where, depth);
    }
    if (schema.contains("const")) {
      allow(schema, where, {"const", "type"});
      return json_literal(schema["const"]);
    }
    if (schema.contains("enum")) {
      allow(schema, where, {"enum", "type"});
      return each(schema["enum"], where + ".enum", [&](const Json& v, const std::string&) { return json_literal(v); });
    }
    if (schema.contains("anyOf")) {
      allow(schema, where, {"anyOf", "$defs", "definitions"});
      return each(schema["anyOf"], where + ".anyOf", [&](const Json& s, const std::string& at) { return visit(s, at, depth + 1); });
    }
    if (!schema.contains("type")) {
      if (schema.contains("properties")) return object(schema, where, depth);
      allow(schema, where, {"$defs", "definitions"});
      return "value";
    }
    const Json& type = schema["type"];
    if (type.is_array())
      return each(type, where + ".type", [&](const Json& t, const std::string&) { return typed(t, schema, where, depth, true); });
    return typed(type, schema, where, depth, false);
  }

  template <class Visit>
  std::string each(const Json& list, const std::string& where, Visit&& visit_one) {
    require(list.is_array() && !list.empty(), where, ": expected a list that is not empty");
    std::vector<std::string> parts;
    for (std::size_t i = 0; i < list.size(); ++i) parts.push_back(visit_one(list[i], where + "[" + std::to_string(i) + "]"));
    return any_of(parts);
  }

  std::string typed(const Json& type, const Json& schema, const std::string& where, int depth, bool one_of_several) {
    require(type.is_string(), where, ".type: expected a string or a list of strings, found ", type.type_name());
    const std::string name = type.template get<std::string>();
    const auto check = [&](std::initializer_list<std::string_view> keywords) {
      if (!one_of_several) allow(schema, where, keywords);  // with several types, another's keywords stand here too
    };
    if (one_of_several)
      allow(schema, where,
            {"type", "properties", "required", "additionalProperties", "items", "minItems", "maxItems", "minLength", "maxLength"});
    if (name == "object") return object(schema, where, depth);
    if (name == "array") {
      check({"type", "items", "minItems", "maxItems"});
      return array(schema, where, depth);
    }
    if (name == "string") {
      check({"type", "minLength", "maxLength"});
      const auto count = counts(schema, where, "minLength", "maxLength");
      return count.empty() ? "string" : "\"\\\"\" char" + count + " \"\\\"\"";
    }
    check({"type"});
    for (const char* simple : {"number", "integer", "boolean"})
      if (name == simple) return name;
    require(name == "null", where, ".type: expected object, array, string, number, integer, boolean or null, found ", quote(name));
    return "\"null\"";
  }

  std::string object(const Json& schema, const std::string& where, int depth) {
    if (!schema.contains("type") || schema["type"].is_string())
      allow(schema, where, {"type", "properties", "required", "additionalProperties"});
    static const Json nothing = Json::object();
    const Json& properties = schema.contains("properties") ? schema["properties"] : nothing;
    require(properties.is_object(), where, ".properties: expected an object, found ", properties.type_name());
    const bool closed = schema.contains("additionalProperties");
    require(!closed || schema["additionalProperties"].is_boolean(), where,
            ".additionalProperties: expected true or false (a schema is not supported)");
    std::set<std::string> required;
    if (schema.contains("required")) {
      require(schema["required"].is_array(), where, ".required: expected a list, found ", schema["required"].type_name());
      for (const Json& name : schema["required"]) {
        require(name.is_string() && properties.contains(name.template get<std::string>()), where,
                ".required: expected names of properties, found ", name.dump());
        required.insert(name.template get<std::string>());
      }
    }
    if (properties.empty()) return closed && !schema["additionalProperties"].template get<bool>() ? "\"{\" \"}\"" : "object";

    // From the last property to the first: what may follow when none has been written yet, and when one has.
    std::string if_first = "", if_later = "";
    for (auto at = properties.end(); at != properties.begin();) {
      --at;
      const std::string pair = add_rule(json_literal(Json(at.key())) + " \":\" ws " + visit(at.value(), where + "." + at.key(), depth + 1));
      const bool optional = !required.contains(at.key());
      const auto choice = [&](const std::string& with, const std::string& without) {
        return add_rule(optional ? with + " | " + (without.empty() ? "\"\"" : without) : with);
      };
      const std::string first = choice(pair + " " + if_later, if_first);
      if_later = choice("\",\" ws " + pair + " " + if_later, if_later);
      if_first = first;
    }
    return "\"{\" " + if_first + " \"}\"";
  }

  std::string array(const Json& schema, const std::string& where, int depth) {
    const std::string item = schema.contains("items") ? add_rule(visit(schema["items"], where + ".items", depth + 1)) : "value";
    const auto [least, most] = bounds(schema, where, "minItems", "maxItems");
    if (most == 0) return "\"[\" \"]\"";
    const std::size_t more = least > 0 ? least - 1 : 0;
    const std::string rest = item + " (\",\" ws " + item + ")" + repetition(more, most ? std::optional(*most - 1) : std::nullopt);
    return "\"[\" " + (least > 0 ? rest : "(" + rest + ")?") + " \"]\"";
  }

  static std::pair<std::size_t, std::optional<std::size_t>> bounds(const Json& schema, const std::string& where, const char* low,
                                                                   const char* high) {
    const auto count = [&](const char* key) -> std::optional<std::size_t> {
      if (!schema.contains(key)) return std::nullopt;
      require(schema[key].is_number_unsigned() && schema[key].template get<std::size_t>() <= 10'000, where, ".", key,
              ": expected an integer from 0 to 10000, found ", schema[key].dump());
      return schema[key].template get<std::size_t>();
    };
    const auto least = count(low).value_or(0);
    const auto most = count(high);
    require(!most || *most >= least, where, ": ", high, " is below ", low);
    return {least, most};
  }

  static std::string repetition(std::size_t least, std::optional<std::size_t> most) {
    std::string out = "{";  // by steps: GCC 12 at -O3 warns of "{" + std::to_string(), which is right
    out += std::to_string(least);
    out += ',';
    if (most) out += std::to_string(*most);
    out += '}';
    return out;
  }

  static std::string counts(const Json& schema, const std::string& where, const char* low, const char* high) {
    const auto [least, most] = bounds(schema, where, low, high);
    if (least == 0 && !most) return {};
    return repetition(least, most);
  }

  std::string reference(const Json& ref, const std::string& where, int depth) {
    require(ref.is_string(), where, ".$ref: expected a string, found ", ref.type_name());
    const std::string path = ref.template get<std::string>();
    if (const auto known = references_.find(path); known != references_.end()) return known->second;
    const std::string name = references_[path] = "ref" + std::to_string(next_++);
    const Json* target = path == "#" ? root_ : nullptr;
    for (const char* folder : {"$defs", "definitions"}) {
      const std::string prefix = std::string("#/") + folder + "/";
      if (path.starts_with(prefix) && root_->is_object() && root_->contains(folder) && (*root_)[folder].is_object() &&
          (*root_)[folder].contains(path.substr(prefix.size())))
        target = &(*root_)[folder][path.substr(prefix.size())];
    }
    require(target != nullptr, where, ".$ref: expected \"#\", or \"#/$defs/NAME\" that is there, found ", quote(path));
    rules_ += name + " ::= " + visit(*target, path, depth + 1) + "\n";
    return name;
  }

  /// Refuses keywords that would be ignored.
  static void allow(const Json& schema, const std::string& where, std::initializer_list<std::string_view> keywords) {
    static const std::set<std::string_view> describing{"title",    "description", "default",  "examples",  "$schema", "$id",
                                                       "$comment", "deprecated",  "readOnly", "writeOnly", "$defs",   "definitions"};
    for (const auto& [key, value] : schema.items())
      require(describing.contains(key) || std::find(keywords.begin(), keywords.end(), key) != keywords.end(), where, ": keyword ",
              quote(key), " is not supported here");
  }

  const Json* root_ = nullptr;  // of the documents that are being added
  std::vector<std::string> documents_;
  std::string rules_;
  std::map<std::string, std::string> references_;
  std::size_t next_ = 0;
};

}  // namespace detail

/// A grammar in GBNF whose texts are JSON documents that the schema allows.
/// Throws: Error naming the place if the schema is malformed or uses what is not covered. Recursion by $ref that has no end is found by
/// grammar::parse_gbnf().
template <class Json>
std::string json_schema_grammar(const Json& schema) {
  detail::SchemaGrammar<Json> grammar;
  grammar.add("", schema);
  return grammar.text();
}

/// The same for texts that begin in one of several ways, each with a schema for what follows: calls of one of several tools.
template <class Json>
std::string json_schema_grammar(std::span<const std::pair<std::string, Json>> choices) {
  detail::SchemaGrammar<Json> grammar;
  for (const auto& [before, schema] : choices) grammar.add(before, schema);
  return grammar.text();
}

}  // namespace dsv3::inline DSV3_ISA::io
