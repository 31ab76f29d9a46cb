// How the C client reads the reply subjects of an explicit list; acks_test.go says how it
// is run. natsMsg_Ack and the like need a JetStream subscription: on another one they
// crash, so that a program publishes to the reply subject.

#include <nats/nats.h>
#include <stdio.h>
#include <stdlib.h>

enum { patience = 60000 }; // ms

#define MUST(call)                                                      \
  do {                                                                  \
    natsStatus status_ = (call);                                        \
    if (status_ != NATS_OK) {                                           \
      fprintf(stderr, "%s: %s\n", #call, natsStatus_GetText(status_));  \
      exit(1);                                                          \
    }                                                                   \
  } while (0)

int main(void) {
  static const char *const answers[] = {"-NAK", "+ACK", "+TERM", ""};
  natsConnection *nc;
  natsSubscription *sub;
  MUST(natsConnection_ConnectTo(&nc, getenv("SERVER")));
  MUST(natsConnection_SubscribeSync(&sub, nc, "events"));
  for (int i = 0; i < 4; i++) {
    natsMsg *msg;
    jsMsgMetaData *meta;
    MUST(natsSubscription_NextMsg(&msg, sub, patience));
    MUST(natsMsg_GetMetaData(&meta, msg));
    printf("saw %d: %s of %s, consumer %s, domain %s, delivered %d, sequence %d and %d\n", i, natsMsg_GetData(msg),
           meta->Stream, meta->Consumer, meta->Domain ? meta->Domain : "none", (int)meta->NumDelivered,
           (int)meta->Sequence.Stream, (int)meta->Sequence.Consumer);
    MUST(natsConnection_PublishString(nc, natsMsg_GetReply(msg), answers[i]));
    jsMsgMetaData_Destroy(meta);
    natsMsg_Destroy(msg);
  }
  MUST(natsConnection_FlushTimeout(nc, patience));
  natsConnection_Destroy(nc);
  natsSubscription_Destroy(sub);
  nats_Close();
}
