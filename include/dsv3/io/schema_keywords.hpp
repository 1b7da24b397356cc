// Floor 6. JSON schemas as collections of keywords: which restrict, what a reference refers to, and how schemas are joined (allOf).
#pragma once

#include <algorithm>
#include <initializer_list>
#include <set>
#include <string>
#include <string_view>

#include "dsv3/core/error.hpp"
#include "dsv3/io/json.hpp"

namespace dsv3::inline DSV3_ISA::io::detail {

/// Whether a keyword only describes, without restricting anything.
inline bool describes(const std::string& key) {
  static const std::set<std::string_view> describing{"title",
                                                     "description",
                                                     "default",
                                                     "examples",
                                                     "example",
                                                     "$schema",
                                                     "$id",
                                                     "$anchor",
                                                     "$comment",
                                                     "deprecated",
                                                     "readOnly",
                                                     "writeOnly",
                                                     "$defs",
                                                     "definitions",
                                                     "discriminator",
                                                     "strict",
                                                     "unevaluatedProperties",
                                                     "contentMediaType",
                                                     "contentEncoding"};
  return describing.contains(key) || key.starts_with("x-");
}

/// Refuses keywords that would be ignored. Throws: Error that names the place and the keyword.
template <class Json>
void allow(const Json& schema, const std::string& where, std::initializer_list<std::string_view> keywords) {
  for (const auto& [key, value] : schema.items())
    require(describes(key) || std::find(keywords.begin(), keywords.end(), key) != keywords.end(), where, ": keyword ", quote(key),
            " is not supported here");
}

/// The schema without one keyword.
template <class Json>
Json without(const Json& schema, const char* key) {
  Json rest = schema;
  rest.erase(key);
  return rest;
}

/// Whether all keywords but `keyword` only describe.
template <class Json>
bool is_alone(const Json& schema, std::string_view keyword) {
  for (const auto& [key, value] : schema.items())
    if (key != keyword && !describes(key)) return false;
  return true;
}

/// The place in `root` that a reference such as "#/$defs/NAME" (a JSON pointer, RFC 6901) names; null if there is none.
template <class Json>
const Json* find_reference(const Json& root, std::string_view reference) {
  if (!reference.starts_with('#')) return nullptr;
  const Json* at = &root;
  for (reference.remove_prefix(1); !reference.empty();) {
    if (reference[0] != '/') return nullptr;
    reference.remove_prefix(1);
    std::string key;
    for (; !reference.empty() && reference[0] != '/'; reference.remove_prefix(1)) {
      const bool tilde = reference.starts_with("~0") || reference.starts_with("~1");
      key += tilde ? (reference[1] == '0' ? '~' : '/') : reference[0];
      if (tilde) reference.remove_prefix(1);
    }
    if (at->is_object() && at->contains(key)) {
      at = &(*at)[key];
    } else if (at->is_array() && !key.empty() && key.size() < 10 && key.find_first_not_of("0123456789") == key.npos &&
               static_cast<std::size_t>(std::stoul(key)) < at->size()) {
      at = &(*at)[static_cast<std::size_t>(std::stoul(key))];
    } else {
      return nullptr;
    }
  }
  return at;
}

/// Joins `part` into `schema`, so that both must hold.
/// Throws: Error naming the place `where` if both have a keyword that cannot be joined, such as two types.
template <class Json>
void merge_schema(Json& schema, const Json& part, const std::string& where) {
  require(part.is_object(), where, ": expected an object, found ", part.type_name());
  for (const auto& [key, value] : part.items()) {
    const bool describes = key == "title" || key == "description" || key == "default" || key == "examples";
    if (!schema.contains(key)) {
      schema[key] = value;
    } else if (key == "properties" && value.is_object() && schema[key].is_object()) {
      for (const auto& [name, property] : value.items()) {
        if (!schema[key].contains(name))
          schema[key][name] = property;
        else if (schema[key][name] != property)
          schema[key][name] = Json{{"allOf", Json::array({schema[key][name], property})}};
      }
    } else if ((key == "required" || key == "allOf") && value.is_array() && schema[key].is_array()) {
      require(schema[key].size() + value.size() <= 1000, where, ".", key, ": expected at most 1000 entries in all");
      for (const Json& one : value) schema[key].push_back(one);
    } else if ((key == "minimum" || key == "minLength" || key == "minItems") && value.is_number() && schema[key].is_number()) {
      if (value > schema[key]) schema[key] = value;
    } else if ((key == "maximum" || key == "maxLength" || key == "maxItems") && value.is_number() && schema[key].is_number()) {
      if (value < schema[key]) schema[key] = value;
    } else {
      require(describes || schema[key] == value, where, ": keyword ", quote(key), " has two values here, which cannot be joined");
    }
  }
}

}  // namespace dsv3::inline DSV3_ISA::io::detail
