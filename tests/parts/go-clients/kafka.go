package main

import (
	"context"
	"fmt"
	"strconv"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
)

// Records with every acknowledgement, taken by a group that commits by hand.
func kafka(t task) (string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 90*time.Second)
	defer cancel()
	broker := kgo.SeedBrokers(fmt.Sprintf("127.0.0.1:%d", t.port))
	topic := fmt.Sprintf("go-%d", time.Now().UnixNano())
	producer, err := kgo.NewClient(broker, kgo.DefaultProduceTopic(topic), kgo.AllowAutoTopicCreation(), kgo.RequiredAcks(kgo.AllISRAcks()))
	if err != nil {
		return "", err
	}
	defer producer.Close()
	records := make([]*kgo.Record, t.count)
	for number := range records {
		records[number] = kgo.StringRecord(strconv.Itoa(number))
	}
	if err := producer.ProduceSync(ctx, records...).FirstErr(); err != nil {
		return "", err
	}
	seen := map[int]int{}
	// The second consumer begins where the first one has committed.
	for _, share := range []int{t.count / 2, t.count} {
		if err := consume(ctx, broker, topic, seen, share); err != nil {
			return "", err
		}
	}
	return fmt.Sprintf("%d records acknowledged and taken, each once", t.count), eachOnce(seen, t.count)
}

func consume(ctx context.Context, broker kgo.Opt, topic string, seen map[int]int, share int) error {
	consumer, err := kgo.NewClient(
		broker, kgo.ConsumeTopics(topic), kgo.ConsumerGroup(topic), kgo.DisableAutoCommit(),
		kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()),
	)
	if err != nil {
		return err
	}
	defer consumer.Close()
	for len(seen) < share {
		fetches := consumer.PollRecords(ctx, min(100, share-len(seen)))
		if err := fetches.Err(); err != nil {
			return fmt.Errorf("after %d: %w", len(seen), err)
		}
		for _, record := range fetches.Records() {
			number, err := strconv.Atoi(string(record.Value))
			if err != nil {
				return err
			}
			seen[number]++
		}
		if err := consumer.CommitRecords(ctx, fetches.Records()...); err != nil {
			return err
		}
	}
	return nil
}
