// Handles each item of a list at least once, across restarts and crashes of itself,
// the server and Redis. The stream events is a Redis list at edged; the same program
// consumes a stream of this name of a NATS server. It needs the C client, in Debian
// the package libnats-dev.
//
//   cc -o worker worker.c -lnats && NATS_URL=nats://127.0.0.1:4222 ./worker

#include <nats/nats.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

static volatile sig_atomic_t stopped;

static void stop(int sig) { (void)sig, stopped = 1; }

static void must(const char *what, natsStatus s) {
  if (s == NATS_OK)
    return;
  fprintf(stderr, "%s: %s\n", what, natsStatus_GetText(s));
  exit(1);
}

int main(void) {
  const char *url = getenv("NATS_URL");
  natsOptions *opts;
  natsConnection *nc;
  natsSubscription *sub;
  jsCtx *js;
  jsConsumerConfig consumer;
  jsSubOptions bound;

  signal(SIGINT, stop);
  signal(SIGTERM, stop);
  setvbuf(stdout, NULL, _IOLBF, 0);

  must("options", natsOptions_Create(&opts));
  must("url", natsOptions_SetURL(opts, url ? url : NATS_DEFAULT_URL));
  must("name", natsOptions_SetName(opts, "worker.c"));
  must("reconnect", natsOptions_SetMaxReconnect(opts, -1));
  must("connect", natsConnection_Connect(&nc, opts));
  must("JetStream", natsConnection_JetStream(&js, nc, NULL));

  // The server remembers a durable consumer and its acknowledgements.
  jsConsumerConfig_Init(&consumer);
  consumer.Durable = "worker";
  consumer.AckPolicy = js_AckExplicit;
  consumer.AckWait = INT64_C(10000000000); // ns; then an item without an acknowledgement comes again
  must("consumer", js_AddConsumer(NULL, js, "events", &consumer, NULL, NULL));
  jsSubOptions_Init(&bound);
  bound.Stream = "events";
  bound.Consumer = "worker";
  must("subscribe", js_PullSubscribe(&sub, js, NULL, NULL, NULL, &bound, NULL));

  while (!stopped) {
    natsMsgList list = {0};
    // Nothing comes while the server restarts. One item at a time: after a restart, version 3.4 of
    // the library may write past the end of a longer list.
    natsSubscription_Fetch(&list, sub, 1, 1000, NULL);
    for (int i = 0; i < list.Count; i++) {
      natsMsg *m = list.Msgs[i];
      printf("%s %.*s\n", natsMsg_GetSubject(m), natsMsg_GetDataLength(m), natsMsg_GetData(m)); // the work
      natsMsg_Ack(m, NULL); // it is done; natsMsg_Nak asks for the item again
    }
    natsMsgList_Destroy(&list);
  }

  natsConnection_FlushTimeout(nc, 5000); // sends the last acknowledgements
  natsSubscription_Destroy(sub);
  jsCtx_Destroy(js);
  natsConnection_Destroy(nc);
  natsOptions_Destroy(opts);
  nats_Close();
  return 0;
}
