package redisconn

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"
)

const errNotAsked = noMaster("the Sentinels were not asked yet where the master is")

// askSentinels returns the address of the master, from the first Sentinel that knows it. It takes
// at most Timeout, of which each Sentinel has a share.
//
// It is asked again whenever a connection fails: Sentinels close the clients' connections to a
// master that they demote. https://redis.io/docs/latest/develop/reference/sentinel-clients/
func (o Options) askSentinels() (address string, err error) {
	var faults []string
	for _, sentinel := range o.Sentinel.Addresses {
		address, err := o.askSentinel(sentinel)
		if err == nil {
			return address, nil
		}
		faults = append(faults, fmt.Sprintf("%s: %v", sentinel, err))
	}
	return "", noMaster(fmt.Sprintf("no Sentinel says where the master %q is; check redis.sentinel: %s",
		o.Sentinel.Master, strings.Join(faults, "; ")))
}

func (o Options) askSentinel(sentinel string) (address string, err error) {
	options := o.clientOptions(sentinel)
	current := o.current().Sentinel
	options.CredentialsProvider, options.DB = nil, 0
	options.Username, options.Password = current.Username, current.Password
	client := redis.NewSentinelClient(options)
	defer client.Close()
	ctx, cancel := context.WithTimeout(context.Background(), o.Timeout/max(1, time.Duration(len(o.Sentinel.Addresses))))
	defer cancel()

	master, err := client.GetMasterAddrByName(ctx, o.Sentinel.Master).Result()
	switch {
	case errors.Is(err, redis.Nil):
		return "", errors.New("it watches no master of that name")
	case err != nil:
		return "", err
	case len(master) != 2:
		return "", errors.New("unexpected reply")
	}

	return net.JoinHostPort(master[0], master[1]), nil
}
