"""The ground floor: files, model folders, devices, configuration models, the trainer core. It knows no model and no study."""
