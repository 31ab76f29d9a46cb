package daemon

import (
	"slices"
	"testing"
	"time"

	"edged/internal/config"
)

func TestHigherClassesDelayOthersLess(t *testing.T) {
	const s = time.Second
	for _, c := range []struct {
		classes []int
		want    []time.Duration
	}{
		{[]int{4, 4}, []time.Duration{0, 0}},
		{[]int{1, 0, 1}, []time.Duration{s / 2, s, s / 2}},
		{[]int{9, 3, 5, 7}, []time.Duration{s / 4, s, s / 2, s / 4}},
	} {
		cfg := new(config.Config)
		for _, class := range c.classes {
			cfg.Lists = append(cfg.Lists, config.List{Class: class})
		}
		var got []time.Duration
		for _, l := range cfg.Lists {
			got = append(got, relayOptions(l, cfg).Delay)
		}
		if !slices.Equal(got, c.want) {
			t.Errorf("classes %v: delays %v, want %v", c.classes, got, c.want)
		}
	}
}
