package config

import "reflect"

// Changes returns the keys whose values differ, in the order of the schema:
// "tcp.listen", "list[1].ack". Where one of two arrays is longer, the key is that
// of the array.
func Changes(old, now *Config) []string {
	return changes("", reflect.ValueOf(old).Elem(), reflect.ValueOf(now).Elem())
}

func changes(path string, old, now reflect.Value) (keys []string) {
	switch {
	case old.Kind() == reflect.Struct:
		for i, name := range keysOf(old.Type()) {
			keys = append(keys, changes(join(path, name), old.Field(i), now.Field(i))...)
		}
	case old.Kind() == reflect.Slice && old.Type().Elem().Kind() == reflect.Struct && old.Len() == now.Len():
		for i := range old.Len() {
			keys = append(keys, changes(Index(path, i), old.Index(i), now.Index(i))...)
		}
	case !reflect.DeepEqual(old.Interface(), now.Interface()):
		keys = append(keys, path)
	}
	return keys
}
