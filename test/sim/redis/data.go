package redis

import (
	"maps"
	"slices"
	"time"
)

// Data is a copy of a data set.
type Data []Key

// Key is a key of a data set.
type Key struct {
	DB      int
	Name    string
	Value   any       // string, []string (list), map[string]string (hash), map[string]bool (set), or map[string]float64 (sorted set)
	Expires time.Time // on the server's clock; zero: never
}

// Save returns a copy of the data, sorted by database and name.
func (r *Redis) Save() Data {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.save()
}

// save is Save. mu is held.
func (r *Redis) save() Data {
	r.tick()
	var data Data
	for n := range r.lastDB + 1 {
		db := r.store.DB(n)
		for _, name := range db.Keys() {
			key := Key{DB: n, Name: name}
			switch db.Type(name) {
			case "string":
				key.Value, _ = db.Get(name)
			case "list":
				items, _ := db.List(name)
				key.Value = slices.Clone(items)
			case "hash":
				key.Value = hash(r, n, name)
			case "set":
				members, _ := db.Members(name)
				set := make(map[string]bool, len(members))
				for _, member := range members {
					set[member] = true
				}
				key.Value = set
			case "zset":
				scores, _ := db.SortedSet(name)
				key.Value = maps.Clone(scores)
			}
			if ttl := db.TTL(name); ttl > 0 {
				key.Expires = r.now().Add(ttl)
			}
			data = append(data, key)
		}
	}
	return data
}

// hash returns the fields of a hash. mu is held.
func hash(r *Redis, db int, name string) map[string]string {
	store := r.store.DB(db)
	fields, _ := store.HKeys(name)
	all := make(map[string]string, len(fields))
	for _, field := range fields {
		all[field] = store.HGet(name, field)
	}
	return all
}

// Restart makes the server one that was killed and started again: connections are
// closed, it has a new run ID, client IDs begin at 1, it knows no script, and data
// is all that it has, except keys that have expired meanwhile.
func (r *Redis) Restart(data Data) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.restart(data)
}

// RestartWithData is Restart with the data that the server has.
func (r *Redis) RestartWithData() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.restart(r.save())
}

// restart is Restart. mu is held.
func (r *Redis) restart(data Data) {
	r.disconnect()
	r.lastID = 0
	r.runID = newRunID()
	r.scripts.known = map[string]bool{}
	r.store.SetTime(r.now())
	r.store.FlushAll()

	for _, key := range data {
		ttl := key.Expires.Sub(r.now())
		if !key.Expires.IsZero() && ttl <= 0 {
			continue
		}
		r.lastDB = max(r.lastDB, key.DB)
		db := r.store.DB(key.DB)
		switch value := key.Value.(type) {
		case string:
			db.Set(key.Name, value)
		case []string:
			db.Push(key.Name, value...)
		case map[string]string:
			for field, v := range value {
				db.HSet(key.Name, field, v)
			}
		case map[string]bool:
			db.SetAdd(key.Name, slices.Collect(maps.Keys(value))...)
		case map[string]float64:
			for member, score := range value {
				db.ZAdd(key.Name, score, member)
			}
		}
		if ttl > 0 {
			db.SetTTL(key.Name, ttl)
		}
	}
}
