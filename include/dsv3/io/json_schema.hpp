// Floor 6. JSON schemas as grammars in GBNF, for the part of JSON Schema that structured answers use.
//
// Covered: type (also several), object with properties, required, additionalProperties, minProperties and maxProperties (the last three
// restrict only objects without properties), array with items, prefixItems, minItems, maxItems, string with minLength, maxLength, format,
// pattern (schema_strings.hpp), number and integer with minimum, maximum and their exclusive forms, boolean, null, enum, const, anyOf,
// oneOf, allOf, nullable, $ref within the schema. Descriptive keywords are skipped; every other one is refused, because an answer that
// ignores it might be wrong. Answers are a subset of what the schema allows: properties in the schema's order and no others, at most one
// space after ':' and ',', numbers of moderate length. oneOf is read as anyOf: an answer may match two of its schemas.
#pragma once

#include <algorithm>
#include <limits>
#include <map>
#include <nlohmann/json.hpp>
#include <optional>
#include <set>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "dsv3/core/error.hpp"
#include "dsv3/generate/gbnf_writer.hpp"
#include "dsv3/io/json.hpp"
#include "dsv3/io/schema_keywords.hpp"
#include "dsv3/io/schema_scalars.hpp"

namespace dsv3::inline DSV3_ISA::io {

namespace detail {

/// Json: nlohmann::json (sorts properties by name) or nlohmann::ordered_json.
template <class Json>
class SchemaGrammar {
 public:
  /// Adds documents of `schema` that follow the text `before`.
  void add(std::string_view before, const Json& schema) {
    root_ = &schema;
    references_.clear();
    documents_.push_back((before.empty() ? "" : grammar::literal(before) + " ") + visit(schema, "schema", 0));
  }

  std::string text() const { return "root ::= " + grammar::any_of(documents_) + "\n" + rules_ + std::string(basics); }

 private:
  static constexpr int max_depth = 64;
  // Rules for a string's characters, for numbers of bounded length, and for any value, where a schema does not restrict it.
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

  static std::string json_literal(const Json& value) { return grammar::literal(value.dump()); }

  std::string add_rule(const std::string& body) {
    const std::string name = "r" + std::to_string(next_++);
    rules_ += name + " ::= " + body + "\n";
    return name;
  }

  /// An expression for what `schema` allows; `where` is its place for messages.
  std::string visit(const Json& schema, const std::string& where, int depth) {
    if (depth > max_depth) fail(where, ": nested deeper than ", max_depth, " levels");
    if (schema.is_boolean() && schema.template get<bool>()) return "value";
    require(schema.is_object(), where, ": expected an object, found ", schema.is_boolean() ? "false" : schema.type_name());
    if (schema.contains("nullable")) {  // OpenAPI's
      require(schema["nullable"].is_boolean(), where, ".nullable: expected true or false");
      const std::string inner = visit(without(schema, "nullable"), where, depth + 1);
      return schema["nullable"].template get<bool>() ? grammar::any_of({inner, "\"null\""}) : inner;
    }
    if (schema.contains("$ref")) {
      if (is_alone(schema, "$ref")) return reference(schema["$ref"], where, depth);
      Json joined = rest_of(schema, "$ref", where);  // since 2019-09, keywords beside it apply as well
      merge_schema(joined, target(schema["$ref"], where), where);
      return visit(joined, where, depth + 1);
    }
    if (schema.contains("allOf")) {
      require(schema["allOf"].is_array() && !schema["allOf"].empty(), where, ".allOf: expected a list that is not empty");
      if (is_alone(schema, "allOf") && schema["allOf"].size() == 1) return visit(schema["allOf"][0], where, depth + 1);
      Json joined = rest_of(schema, "allOf", where);
      for (const Json& part : schema["allOf"])
        merge_schema(joined, part.contains("$ref") && is_alone(part, "$ref") ? target(part["$ref"], where) : part, where);
      return visit(joined, where, depth + 1);
    }
    for (const char* choice : {"anyOf", "oneOf"})
      if (schema.contains(choice)) {
        return each(schema[choice], where + "." + choice, [&](const Json& s, const std::string& at) {
          if (is_alone(schema, choice)) return visit(s, at, depth + 1);
          Json joined = rest_of(schema, choice, where);
          merge_schema(joined, s, at);
          return visit(joined, at, depth + 1);
        });
      }
    if (schema.contains("const")) {
      allow(schema, where, {"const", "type"});
      return json_literal(schema["const"]);
    }
    if (schema.contains("enum")) {
      allow(schema, where, {"enum", "type"});
      return each(schema["enum"], where + ".enum", [&](const Json& v, const std::string&) { return json_literal(v); });
    }
    if (!schema.contains("type")) {
      if (schema.contains("properties") || schema.contains("required")) return object(schema, where, depth);
      for (const char* keyword : {"pattern", "format", "minLength", "maxLength"})
        if (schema.contains(keyword)) return typed("string", schema, where, depth, false);
      allow(schema, where, {});
      return "value";
    }
    const Json& type = schema["type"];
    if (type.is_array())
      return each(type, where + ".type", [&](const Json& t, const std::string&) { return typed(t, schema, where, depth, true); });
    return typed(type, schema, where, depth, false);
  }

  /// The keywords beside `keyword`, to be joined with what it asks for.
  Json rest_of(const Json& schema, const char* keyword, const std::string& where) {
    constexpr int most = 500;  // each copies a part of the schema
    require(++joined_ <= most, where, ": more than ", most, " schemas that must be joined");
    return without(schema, keyword);
  }

  const Json& target(const Json& reference, const std::string& where) const {
    require(reference.is_string(), where, ".$ref: expected a string, found ", reference.type_name());
    const std::string path = reference.template get<std::string>();
    const Json* found = find_reference(*root_, path);
    require(found != nullptr, where, ".$ref: expected \"#\", or a place in the schema such as \"#/$defs/NAME\", found ", quote(path));
    return *found;
  }

  template <class Visit>
  std::string each(const Json& list, const std::string& where, Visit&& visit_one) {
    require(list.is_array() && !list.empty(), where, ": expected a list that is not empty");
    std::vector<std::string> parts;
    for (std::size_t i = 0; i < list.size(); ++i) parts.push_back(visit_one(list[i], where + "[" + std::to_string(i) + "]"));
    return grammar::any_of(parts);
  }

  std::string typed(const Json& type, const Json& schema, const std::string& where, int depth, bool one_of_several) {
    require(type.is_string(), where, ".type: expected a string or a list of strings, found ", type.type_name());
    const std::string name = type.template get<std::string>();
    const auto check = [&](std::initializer_list<std::string_view> keywords) {
      if (!one_of_several) allow(schema, where, keywords);  // with several types, other types' keywords are here too
    };
    if (one_of_several)
      allow(schema, where,
            {"type", "properties", "required", "additionalProperties", "minProperties", "maxProperties", "items", "prefixItems", "minItems",
             "maxItems", "minLength", "maxLength", "format", "pattern", "minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"});
    if (name == "object") return object(schema, where, depth);
    if (name == "array") {
      check({"type", "items", "prefixItems", "minItems", "maxItems"});
      return array(schema, where, depth);
    }
    if (name == "string") {
      check({"type", "minLength", "maxLength", "format", "pattern"});
      return string_expression(schema, where);
    }
    if (name == "number" || name == "integer") {
      check({"type", "minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"});
      return number_expression(schema, where, name == "integer");
    }
    check({"type"});
    if (name == "boolean") return name;
    require(name == "null", where, ".type: expected object, array, string, number, integer, boolean or null, found ", quote(name));
    return "\"null\"";
  }

  std::string object(const Json& schema, const std::string& where, int depth) {
    if (!schema.contains("type") || schema["type"].is_string())
      allow(schema, where, {"type", "properties", "required", "additionalProperties", "minProperties", "maxProperties"});
    static const Json nothing = Json::object();
    const Json& properties = schema.contains("properties") ? schema["properties"] : nothing;
    require(properties.is_object(), where, ".properties: expected an object, found ", properties.type_name());
    std::set<std::string> required;
    std::vector<std::pair<std::string, const Json*>> all;
    for (const auto& [name, property] : properties.items()) all.emplace_back(name, &property);
    if (schema.contains("required")) {
      static const Json anything = true;
      require(schema["required"].is_array(), where, ".required: expected a list, found ", schema["required"].type_name());
      for (const Json& name : schema["required"]) {
        require(name.is_string(), where, ".required: expected names, found ", name.dump());
        if (required.insert(name.template get<std::string>()).second && !properties.contains(name.template get<std::string>()))
          all.emplace_back(name.template get<std::string>(), &anything);
      }
    }
    const auto [least, most] = bounds(schema, where, "minProperties", "maxProperties");
    const Json* others = schema.contains("additionalProperties") ? &schema["additionalProperties"] : nullptr;
    if (others != nullptr)
      require(others->is_boolean() || others->is_object(), where, ".additionalProperties: expected true, false or a schema");
    if (all.empty()) return dictionary(others, least, most, where, depth);
    require(least <= required.size() && (!most || *most >= all.size()), where,
            ": minProperties and maxProperties are supported only where there are no properties, or where they change nothing");

    // Built from the last property to the first: what may follow if no property has been written yet, and if one has.
    std::string if_first, if_later;
    for (auto at = all.rbegin(); at != all.rend(); ++at) {
      const auto& [name, property] = *at;
      const std::string pair = add_rule(json_literal(Json(name)) + " \":\" ws " + visit(*property, where + "." + name, depth + 1));
      const bool optional = !required.contains(name);
      const auto choice = [&](const std::string& with, const std::string& without) {
        return add_rule(optional ? with + " | " + (without.empty() ? "\"\"" : without) : with);
      };
      const std::string first = choice(pair + " " + if_later, if_first);
      if_later = choice("\",\" ws " + pair + " " + if_later, if_later);
      if_first = first;
    }
    return "\"{\" " + if_first + " \"}\"";
  }

  /// An object without named properties; `others` is the schema of its values, or null.
  std::string dictionary(const Json* others, std::size_t least, std::optional<std::size_t> most, const std::string& where, int depth) {
    if (most == 0 || (others != nullptr && others->is_boolean() && !others->template get<bool>())) {
      require(least == 0, where, ": expected a schema that an object fits");
      return "\"{\" \"}\"";
    }
    const std::string value = others != nullptr ? visit(*others, where + ".additionalProperties", depth + 1) : "value";
    return listed("\"{\"", add_rule("string \":\" ws " + value), "\"}\"", least, most);
  }

  /// `item` `least` to `most` times, with commas between, enclosed by `before` and `behind`.
  static std::string listed(const std::string& before, const std::string& item, const std::string& behind, std::size_t least,
                            std::optional<std::size_t> most) {
    const std::string rest =
        item + " (\",\" ws " + item + ")" + repetition(least > 0 ? least - 1 : 0, most ? std::optional(*most - 1) : std::nullopt);
    return before + " " + (least > 0 ? rest : "(" + rest + ")?") + " " + behind;
  }

  std::string array(const Json& schema, const std::string& where, int depth) {
    auto [least, most] = bounds(schema, where, "minItems", "maxItems");
    std::string first;  // the items of prefixItems; all of them are written
    if (schema.contains("prefixItems")) {
      const Json& list = schema["prefixItems"];
      require(list.is_array() && !list.empty(), where, ".prefixItems: expected a list that is not empty");
      require(!most || *most >= list.size(), where, ": maxItems below the number of prefixItems is not supported");
      for (std::size_t i = 0; i < list.size(); ++i)
        first += (i == 0 ? "" : "\",\" ws ") + visit(list[i], where + ".prefixItems[" + std::to_string(i) + "]", depth + 1) + " ";
      least -= std::min(least, list.size());
      if (most) *most -= list.size();
    }
    const bool none = schema.contains("items") && schema["items"].is_boolean() && !schema["items"].template get<bool>();
    require(!none || least == 0, where, ": expected a schema that an array fits");
    if (most == 0 || none) return "\"[\" " + first + "\"]\"";
    const std::string item = schema.contains("items") ? add_rule(visit(schema["items"], where + ".items", depth + 1)) : "value";
    if (first.empty()) return listed("\"[\"", item, "\"]\"", least, most);
    return "\"[\" " + first + "(\",\" ws " + item + ")" + repetition(least, most) + " \"]\"";
  }

  std::string reference(const Json& ref, const std::string& where, int depth) {
    require(ref.is_string(), where, ".$ref: expected a string, found ", ref.type_name());
    const std::string path = ref.template get<std::string>();
    if (const auto known = references_.find(path); known != references_.end()) return known->second;
    const Json& found = target(ref, where);
    const std::string name = references_[path] = "ref" + std::to_string(next_++);
    const std::string body = visit(found, path, depth + 1);
    rules_ += name + " ::= " + body + "\n";
    return name;
  }

  const Json* root_ = nullptr;  // schema of the documents being added
  std::vector<std::string> documents_;
  std::string rules_;
  std::map<std::string, std::string> references_;
  std::size_t next_ = 0;
  int joined_ = 0;
};

}  // namespace detail

/// A grammar in GBNF whose texts are JSON documents that the schema allows.
/// Throws: Error naming the place if the schema is malformed or uses what is not covered. grammar::parse_gbnf() reports endless recursion
/// by $ref.
template <class Json>
[[nodiscard]] std::string json_schema_grammar(const Json& schema) {
  detail::SchemaGrammar<Json> grammar;
  grammar.add("", schema);
  return grammar.text();
}

/// The same for several choices, each a fixed text followed by a document of its schema: calls of one of several tools.
template <class Json>
[[nodiscard]] std::string json_schema_grammar(std::span<const std::pair<std::string, Json>> choices) {
  detail::SchemaGrammar<Json> grammar;
  for (const auto& [before, schema] : choices) grammar.add(before, schema);
  return grammar.text();
}

}  // namespace dsv3::inline DSV3_ISA::io
