// Prints the items of two lists, one a line, until it is told to stop. It needs
// the C client, in Debian the package libnats-dev.
//
//   cc -o subscriber subscriber.c -lnats && NATS_URL=nats://127.0.0.1:4222 ./subscriber

#include <nats/nats.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>

static void must(const char *what, natsStatus s) {
  if (s == NATS_OK)
    return;
  fprintf(stderr, "%s: %s\n", what, natsStatus_GetText(s));
  exit(1);
}

static void onItem(natsConnection *nc, natsSubscription *sub, natsMsg *m, void *arg) {
  (void)nc, (void)sub, (void)arg;
  printf("%s %.*s\n", natsMsg_GetSubject(m), natsMsg_GetDataLength(m), natsMsg_GetData(m));
  // With ack = "explicit": natsConnection_PublishString(nc, natsMsg_GetReply(m), "+ACK");
  natsMsg_Destroy(m);
}

int main(void) {
  const char *subjects[] = {"events", "readings"};
  const char *url = getenv("NATS_URL");
  natsOptions *opts;
  natsConnection *nc;
  natsSubscription *subs[2];
  sigset_t stop;
  int sig;

  // Before the library starts its threads: the signals come to sigwait alone.
  sigemptyset(&stop);
  sigaddset(&stop, SIGINT);
  sigaddset(&stop, SIGTERM);
  pthread_sigmask(SIG_BLOCK, &stop, NULL);
  setvbuf(stdout, NULL, _IOLBF, 0);

  must("options", natsOptions_Create(&opts));
  must("url", natsOptions_SetURL(opts, url ? url : NATS_DEFAULT_URL));
  must("name", natsOptions_SetName(opts, "subscriber.c"));
  must("reconnect", natsOptions_SetMaxReconnect(opts, -1)); // edged may restart
  must("connect", natsConnection_Connect(&nc, opts));
  for (int i = 0; i < 2; i++) {
    must("subscribe", natsConnection_Subscribe(&subs[i], nc, subjects[i], onItem, NULL));
    // The library confirms the items that it has queued here, and drops those beyond this limit.
    must("limits", natsSubscription_SetPendingLimits(subs[i], -1, -1));
  }

  sigwait(&stop, &sig);
  for (int i = 0; i < 2; i++) { // prints the items received so far
    natsSubscription_Drain(subs[i]);
    natsSubscription_WaitForDrainCompletion(subs[i], 5000);
    natsSubscription_Destroy(subs[i]);
  }
  natsConnection_Destroy(nc);
  natsOptions_Destroy(opts);
  nats_Close();
  return 0;
}
