"""1 of the training data and the iterations that go with it (InternVL's published protocol, arXiv 2312.14238)."""

fraction = '1'
max_iters = 80000
