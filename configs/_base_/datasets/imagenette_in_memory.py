# All images as one tensor on the device, with augmentation of whole batches.
_base_ = './imagenette.py'

train_dataloader = dict(
    dataset=dict(
        _delete_=True,
        type='InMemory',
        dataset={{_base_.train_dataloader.dataset}},
    ),
    collate_fn=dict(type='as_is'),
    num_workers=0,
    persistent_workers=False,
    pin_memory=False,
)
val_dataloader = dict(
    dataset=dict(
        _delete_=True,
        type='InMemory',
        dataset={{_base_.val_dataloader.dataset}},
    ),
    collate_fn=dict(type='as_is'),
    num_workers=0,
    persistent_workers=False,
    pin_memory=False,
)
test_dataloader = val_dataloader
